"""InstanSeg finds the nuclei (Goldsborough et al. 2024, arXiv 2408.15954), by its own package: `restain[instanseg]`.

That package fetches its weights from its releases on GitHub when they are first needed, unlike anything else here.
"""

import warnings

import numpy as np

from restain.errors import InputError
from restain.quantify.density import RGB
from restain.quantify.nuclei import Labels, Segmenter

MODEL = "brightfield_nuclei"
"""The model for H&E and IHC."""


def instanseg_nuclei(mpp: float, model: str = MODEL, device: str | None = None) -> Segmenter:
    """Load InstanSeg.

    Args:
        mpp: µm per pixel of the images that it will get.
        model: a name that the package knows, or of a folder of `INSTANSEG_BIOIMAGEIO_PATH`.
        device: where it runs; None takes a GPU where there is one.

    Raises:
        InputError: the package is not installed, or the weights cannot be had.
    """
    try:
        from instanseg import InstanSeg
    except ImportError as error:
        raise InputError(f"InstanSeg cannot be imported ({error}); pip install 'restain[instanseg]'") from error
    try:
        network = InstanSeg(model, device=device, verbosity=0)
    except Exception as error:  # of requests, zipfile, torch.jit, and a bare Exception of its own
        raise InputError(
            f"InstanSeg's model {model} cannot be loaded ({' '.join(str(error).split())[:200]}); it is fetched from"
            " https://github.com/instanseg/instanseg/releases when first used, so run once with a network, or unpack"
            f" its zip as {model}/VERSION in a folder and name that folder in INSTANSEG_BIOIMAGEIO_PATH"
        ) from error

    def segment(rgb: RGB) -> Labels:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "CUDA is not available")  # it asks for CUDA's autocast everywhere
            found = network.eval_small_image(rgb, mpp, target="nuclei", return_image_tensor=False)
        return np.ascontiguousarray(found[0, 0].cpu().numpy(), np.int32)

    return segment
