"""Colours of trust maps and what they depend on, for images and slides."""

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from restain.errors import InputError
from restain.image import RGB
from restain.quantify.density import Float32s
from restain.slides.identity import job_key
from restain.staining.policies import DenseNorm, NormPolicy
from restain.trust.familiarity import Familiarity

SHOWN_OD = 0.2
"""Disagreement with the brightest colour."""

_UNKNOWN = 200
_UNLIKE = (0, 220, 220)


def check_turnable(norm: NormPolicy) -> None:
    """Refuse a norm policy whose statistics depend on position.

    Raises:
        InputError: the policy is `dense`.
    """
    if isinstance(norm, DenseNorm):
        raise InputError(
            "trust maps cannot be combined with dense normalisation, whose statistics depend on position; "
            "choose slide, tile or a file of statistics"
        )


def paint_disagreement(spread: Float32s, unlike: NDArray[np.bool_] | None, block_px: int) -> RGB:
    """Dark where the stain is reliable, bright where not, grey where unknown; unfamiliar blocks are framed in cyan.

    Args:
        spread: disagreement, H x W; NaN where unknown.
        unlike: per block, from the upper left corner; None without calibration.
        block_px: side of a block in the picture; its frame is a 32nd of that wide, at least 1 px.
    """
    levels = np.minimum(np.nan_to_num(spread) / SHOWN_OD, 1)
    picture: RGB = (mpl.colormaps["inferno"](levels)[..., :3] * 255).round().astype(np.uint8)
    picture[np.isnan(spread)] = _UNKNOWN
    edge = max(1, block_px // 32)
    for row, column in np.argwhere(unlike).tolist() if unlike is not None else ():
        block = picture[row * block_px : (row + 1) * block_px, column * block_px : (column + 1) * block_px]
        block[:edge] = block[-edge:] = block[:, :edge] = block[:, -edge:] = _UNLIKE
    return picture


def made_with(familiarity: Familiarity | None, job: str | None = None) -> str:
    """Identifies what a map depends on: the model's calibration and, of a slide, the job of its result."""
    parts = {"familiarity": familiarity.as_json() if familiarity else None} | ({"job": job} if job else {})
    return job_key(parts)[:16]
