"""Segments nuclei with InstanSeg (Goldsborough et al. 2024, arXiv 2408.15954) and its package: `restain[instanseg]`.

Unlike everything else here, that package downloads its weights, from its releases on GitHub on first use.
"""

import warnings
from collections.abc import Callable
from functools import partial
from textwrap import shorten

import numpy as np

from restain.errors import InputError
from restain.image import RGB
from restain.quantify.nuclei import Labels, NucleusSegmenter

MODEL = "brightfield_nuclei"
"""The model for H&E and IHC."""


def load_instanseg(model: str = MODEL, device: str | None = None) -> Callable[[float], NucleusSegmenter]:
    """Load InstanSeg.

    Args:
        model: a name that the package knows, or of a folder in `INSTANSEG_BIOIMAGEIO_PATH`.
        device: where it runs; None takes a GPU if there is one.

    Returns:
        A function from µm per pixel to a segmenter for images of that resolution.

    Raises:
        InputError: the package is not installed, or the weights cannot be obtained.
    """
    try:
        from instanseg import InstanSeg
    except ImportError as error:
        raise InputError(
            f"InstanSeg cannot be imported ({error}); install it with pip install 'restain[instanseg]'"
        ) from error
    try:
        network = InstanSeg(model, device=device, verbosity=0)
    except Exception as error:  # from requests, zipfile, torch.jit, and a bare Exception of its own
        reason = shorten(str(error), 200, placeholder=" …")
        raise InputError(
            f"InstanSeg's model {model} cannot be loaded ({reason}); it is fetched from"
            " https://github.com/instanseg/instanseg/releases when first used, so run once with a network, or unpack"
            f" its zip as {model}/VERSION in a folder and name that folder in INSTANSEG_BIOIMAGEIO_PATH"
        ) from error

    def segment(rgb: RGB, mpp: float) -> Labels:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "CUDA is not available")  # it requests CUDA's autocast on every device
            found = network.eval_small_image(rgb, mpp, target="nuclei", return_image_tensor=False)
        return np.ascontiguousarray(found[0, 0].cpu().numpy(), np.int32)

    return lambda mpp: partial(segment, mpp=mpp)
