"""What staining a slide needs to know, and what it tells afterwards."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from restain.errors import InputError
from restain.slides.codec import Codec
from restain.slides.reader import SANE_MPP
from restain.staining.policies import NormPolicy, SlideNorm

SLIDE_TILE_PX = 1024
"""Side of what the network adds to a slide at a time: with a halo of 72 px, three quarters of what it computes."""

OnProgress = Callable[[int, int, float, float], None]
"""Called with tiles done and in all, megapixels done and in all."""


@dataclass(frozen=True)
class SlideSettings:
    """How slides are stained."""

    norm: NormPolicy = SlideNorm()
    """What tiles are normalised by."""
    codec: Codec = field(default_factory=Codec)
    tile_px: int = SLIDE_TILE_PX
    """A multiple of 16, of 256 for the U-Net; on a CPU it is halved until a pass takes 1.2 GB."""
    halo_px: int | None = None
    """Margin read around each tile; the generator's receptive radius if not given."""
    mpp: float | None = None
    """Micrometres per pixel of the slide, where it has none or wrong ones."""
    model_mpp: float | None = None
    """Micrometres per pixel that the model was trained at, where its checkpoint does not tell."""
    region: tuple[int, int, int, int] | None = None
    """x, y, width, height in px of the first level; the result shows only this."""
    rois: Path | None = None
    """GeoJSON with polygons; only these are stained."""
    tissue_mask: bool = True
    """Whether to look for tissue and to leave the rest unstained."""
    batch: int | None = None
    """Tiles that go through the network together; 1 on a CPU and 2 on a GPU if not given."""
    bfloat16: bool = False
    """Compute in bfloat16: three times as fast on a CPU with AMX; colours are off by about two grey levels."""
    engine: Literal["torch", "openvino"] = "torch"
    """What runs the network. OpenVINO is for CPUs and for statistics that all tiles share."""
    threads: int = 2
    """Threads that read, and as many that encode."""

    def __post_init__(self) -> None:
        """Refuse a scale that no model was trained at."""
        low, high = SANE_MPP
        if self.model_mpp is not None and not low <= self.model_mpp <= high:
            raise InputError(
                f"model_mpp {self.model_mpp:g} is out of range; expected {low} to {high} micrometres per pixel"
            )


@dataclass(frozen=True)
class SlideReport:
    """What became of a slide."""

    path: Path
    megapixels: float = 0.0
    """Stained in this run."""
    notes: list[str] = field(default_factory=list)
    """Worth knowing: where micrometres per pixel come from, what was resampled, whether the run was resumed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage; reading and encoding are summed over their threads."""
    skipped: bool = False
    """Whether the result was there already."""
