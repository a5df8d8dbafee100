"""Settings of staining a slide, and its report."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from restain.image import check_mpp
from restain.slides.codec import Codec
from restain.staining.policies import NormPolicy, SlideNorm

SLIDE_TILE_PX = 1024
"""Side of a tile: with a halo of 72 px, three quarters of what the network computes."""

OnProgress = Callable[[int, int, float, float], None]
"""Called with tiles done and in all, megapixels done and in all."""


@dataclass(frozen=True)
class SlideSettings:
    """How slides are stained."""

    norm: NormPolicy = SlideNorm()
    """Statistics that normalise the tiles."""
    codec: Codec = field(default_factory=Codec)
    tile_px: int = SLIDE_TILE_PX
    """A multiple of 16, of 256 for the U-Net; on a CPU it is halved until a pass takes 1.2 GB."""
    halo_px: int | None = None
    """Margin read around each tile; the generator's receptive radius if not given."""
    mpp: float | None = None
    """Micrometres per pixel of the slide, if its file has none or a wrong value."""
    model_mpp: float | None = None
    """Micrometres per pixel that the model was trained at, if its checkpoint does not record them."""
    region: tuple[int, int, int, int] | None = None
    """x, y, width, height in px of the first level; the result shows only this."""
    rois: Path | None = None
    """GeoJSON with polygons; only these are stained."""
    tissue_mask: bool = True
    """Whether to find tissue and leave the rest unstained."""
    batch: int | None = None
    """Tiles per pass of the network; 1 on a CPU and 2 on a GPU if not given."""
    bfloat16: bool = False
    """Compute in bfloat16: three times as fast on a CPU with AMX; colours are off by about two grey levels."""
    engine: Literal["torch", "openvino"] = "torch"
    """Inference engine. OpenVINO is for CPUs and for statistics that all tiles share."""
    threads: int = 2
    """Threads for reading, and as many for encoding."""

    def __post_init__(self) -> None:
        """Check the resolution."""
        if self.model_mpp is not None:
            check_mpp(self.model_mpp)


@dataclass(frozen=True)
class SlideReport:
    """Report on a slide."""

    path: Path
    megapixels: float = 0.0
    """Stained in this run."""
    notes: list[str] = field(default_factory=list)
    """Notes on the origin of the micrometres per pixel, on resampling, and on resuming."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage; reading and encoding are summed over their threads."""
    skipped: bool = False
    """Whether the result existed already."""
