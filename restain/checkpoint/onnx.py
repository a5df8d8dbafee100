"""Writes a generator as ONNX, for programs that have no PyTorch."""

from pathlib import Path

import numpy as np
import torch

from restain.errors import CheckpointError, InputError
from restain.image import atomic_path
from restain.networks.stainer import Stainer

TOLERANCE = 1e-4
"""How far the exported network may be from PyTorch, in [-1, 1]."""

_TRACED = (2, 64, 96)
_COMPARED = ((1, 64, 64), (2, 96, 72))


def export_onnx(generator: Stainer, path: Path) -> float:
    """Write a generator as one ONNX file; batch, height and width stay free, the sides must be multiples of 4.

    Input and output are called `he` and `virtual`, N x 3 x H x W float32 in [-1, 1]. The file is run and compared with
    PyTorch before it gets its name.

    Args:
        generator: from `load_generator`; with instance norm, each image is normalised by its own statistics. One that
            `freeze` made has fixed ones and can be used tile by tile.
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
    count, height, width = _TRACED
    free = torch.export.Dim
    shape = {0: free("batch"), 2: 4 * free("rows", min=4), 3: 4 * free("columns", min=4)}
    program = torch.onnx.export(
        generator,
        (torch.zeros(count, 3, height, width),),
        input_names=["he"],
        output_names=["virtual"],
        dynamic_shapes={"x": shape},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    with atomic_path(path) as temporary:
        program.save(temporary, external_data=False)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        difference = 0.0
        for n, (count, height, width) in enumerate(_COMPARED):
            he = np.random.default_rng(n).uniform(-1, 1, (count, 3, height, width)).astype(np.float32)
            with torch.inference_mode():
                expected = generator(torch.from_numpy(he)).numpy()
            (virtual,) = session.run(None, {"he": he})
            difference = max(difference, float(np.abs(virtual - expected).max()))
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{path}: the exported network differs from PyTorch by {difference:.1e}, more than {TOLERANCE:.0e}; "
                "nothing was written, try another version of torch or onnxruntime"
            )
    return difference
