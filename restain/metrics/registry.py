"""The metrics by name. To add one: a function of two batches, and a line in `METRICS`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from restain.metrics.agreement import mean_error
from restain.metrics.expression import (
    HISTOGRAM_BINS,
    HISTOGRAM_TOP,
    dab_densities,
    dab_divergence,
    dice,
    iou,
    mean_absolute_difference,
    pearson,
    positive_areas,
    positive_densities,
)
from restain.metrics.similarity import MS_SSIM_SMALLEST_PX, ROUNDING, SCALE_WEIGHTS, ms_ssim, psnr, ssim, ssim_grey
from restain.metrics.structure import haematoxylin_correlation
from restain.metrics.tiles import Partner
from restain.stains import POSITIVE_DENSITY


@dataclass(frozen=True)
class Metric:
    """How pairs of tiles become one figure: measure each pair, then combine all pairs."""

    label: str
    """Title of its row in a table."""
    measure: Callable[[Tensor, Tensor], Tensor]
    """(virtual, partner), N x 3 x H x W in [0, 1] each, to one value per tile (N) or more (N x k). Metrics with the
    same function share one run of it."""
    columns: tuple[str, ...]
    """Names of these values."""
    figure: Callable[..., Tensor] = Tensor.mean
    """The columns, N each and in order, to a scalar."""
    higher_is_better: bool | None = True
    """None if neither is, as for a bias, whose best value is 0."""
    unit: str = ""
    protocol: Mapping[str, str | float] = field(default_factory=dict)
    """Every choice inside the metric that changes its value."""
    partner: Partner = "real"
    """What the virtual image is compared with."""
    smallest_px: int = 0
    """Shortest side that can be measured; if a tile is smaller, the metric is left out with a note."""


_WINDOW: dict[str, str | float] = {"window": "gaussian 11 px, sigma 1.5", "range": 1}
_DAB: dict[str, str | float] = {"stains": "Ruifrok & Johnston"}
_POSITIVE = _DAB | {"positive above": POSITIVE_DENSITY}
_DENSITIES = ("dab_virtual", "dab_real")
_AREAS = ("positive_both_px", "positive_virtual_px", "positive_real_px")

METRICS: dict[str, Metric] = {
    "ssim_grey": Metric("SSIM, grey", ssim_grey, ("ssim_grey",), protocol=_WINDOW | {"grey": "BT.601"}),
    "ssim_rgb": Metric("SSIM, RGB", ssim, ("ssim_rgb",), protocol=_WINDOW),
    "ms_ssim": Metric(
        "MS-SSIM, RGB",
        ms_ssim,
        ("ms_ssim",),
        protocol=_WINDOW | {"scales": len(SCALE_WEIGHTS)},
        smallest_px=MS_SSIM_SMALLEST_PX,
    ),
    "psnr": Metric(
        "PSNR",
        psnr,
        ("psnr",),
        unit="dB",
        protocol={"range": 1, "at most": f"{-10 * math.log10(ROUNDING):.1f} dB (rounding to 8 bits)"},
    ),
    "dab_error": Metric(
        "DAB density error",
        dab_densities,
        _DENSITIES,
        mean_absolute_difference,
        higher_is_better=False,
        unit="OD",
        protocol=_DAB,
    ),
    "dab_r": Metric("DAB density, Pearson R", dab_densities, _DENSITIES, pearson, protocol=_DAB),
    "dab_kl": Metric(
        "DAB density, KL of histograms",
        dab_divergence,
        ("dab_kl",),
        higher_is_better=False,
        unit="nat",
        protocol=_DAB | {"bins": HISTOGRAM_BINS, "up to": HISTOGRAM_TOP},
    ),
    "dab_positive_error": Metric(
        "DAB density of the positive area, error",
        positive_densities,
        ("dab_positive_virtual", "dab_positive_real"),
        mean_error,
        higher_is_better=False,
        unit="OD",
        protocol=_POSITIVE,
    ),
    "positive_dice": Metric("Positive area, Dice", positive_areas, _AREAS, dice, protocol=_POSITIVE),
    "positive_iou": Metric("Positive area, IoU", positive_areas, _AREAS, iou, protocol=_POSITIVE),
    "haematoxylin_r": Metric(
        "Haematoxylin of the H&E, Pearson R",
        haematoxylin_correlation,
        ("haematoxylin_r",),
        Tensor.nanmean,
        protocol={"stains": "Ruifrok & Johnston"},
        partner="he",
    ),
}
"""Every metric of `evaluate`, in the order of its table."""
