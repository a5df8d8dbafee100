"""Exports a generator to ONNX, for programs without PyTorch."""

import copy
from pathlib import Path

import numpy as np
import torch

from restain.errors import CheckpointError, InputError
from restain.image import atomic_path
from restain.networks.stainer import Stainer

TOLERANCE = 1e-4
"""How far the exported network may be from PyTorch, in [-1, 1], unless rounding alone takes PyTorch further."""

ROUNDINGS = 8
"""How many times PyTorch's own rounding the difference may be: both round, each in its own order. Instance norm after
spectral norm raises rounding, in a fresh VSMT generator to 3e-4 on noise."""

GREY_LEVEL = 1 / 127.5
"""The largest difference that rounding excuses."""

_TRACED = (2, 64, 96)
_COMPARED = ((1, 64, 64), (2, 96, 72))
"""Images, height and width; rounded up to the multiple of the network."""


def export_onnx(generator: Stainer, path: Path) -> float:
    """Export a generator to one ONNX file with dynamic batch, height and width.

    Sides must be multiples of the generator's, 4 px for most. Input and output are called `he` and `virtual`, N x 3 x
    H x W float32 in [-1, 1]. The file is run and compared with PyTorch before it is put in place.

    Args:
        generator: from `load_generator`; with instance norm, each image is normalised by its own statistics. A
            generator from `freeze` has fixed statistics and can stain tile by tile.
        path: the file.

    Returns:
        The largest difference to PyTorch on random images of several sizes.

    Raises:
        InputError: onnx, onnxscript or onnxruntime is missing.
        CheckpointError: the exported network computes something else.
        OutputError: the file cannot be written.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it and says so less clearly
    except ImportError as error:
        raise InputError(f"{error.name} is missing; install restain[onnx]") from error
    generator = generator.cpu().eval()
    multiple, free = generator.multiple, torch.export.Dim
    shape = {0: free("batch"), 2: multiple * free("rows", min=2), 3: multiple * free("columns", min=2)}
    program = torch.onnx.export(
        generator,
        (torch.zeros(_fitting(_TRACED, multiple)),),
        input_names=["he"],
        output_names=["virtual"],
        dynamic_shapes=[shape],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    with atomic_path(path) as temporary:
        program.save(temporary, external_data=False)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        exact = copy.deepcopy(generator).double()
        difference = rounding = 0.0
        for n, images in enumerate(_COMPARED):
            he = np.random.default_rng(n).uniform(-1, 1, _fitting(images, multiple)).astype(np.float32)
            with torch.inference_mode():
                expected = generator(torch.from_numpy(he)).numpy()
                unrounded = exact(torch.from_numpy(he).double()).numpy()
            (virtual,) = session.run(None, {"he": he})
            difference = max(difference, float(np.abs(virtual - expected).max()))
            rounding = max(rounding, float(np.abs(expected - unrounded).max()))
        allowed = max(TOLERANCE, min(ROUNDINGS * rounding, GREY_LEVEL))
        if not difference <= allowed:
            raise CheckpointError(
                f"{path}: the exported network differs from PyTorch by {difference:.1e}, more than {allowed:.0e}; "
                "nothing was written, try another version of torch or onnxruntime"
            )
    return difference


def _fitting(images: tuple[int, int, int], multiple: int) -> tuple[int, int, int, int]:
    """A batch shape whose sides are rounded up to the next multiple, at least twice the multiple."""
    count, *sides = images
    height, width = (max(2, -(-side // multiple)) * multiple for side in sides)
    return count, 3, height, width
