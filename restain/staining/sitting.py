"""One slide being stained by one model: the work, what is finished, and how a batch of tiles is made.

`restain.staining.slide` does all of it; the viewer requests tiles in view. Both give the same pixels.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from restain.errors import InputError, RestainError
from restain.folders import beside
from restain.image import RGB, to_tensor, to_uint8
from restain.networks.generator import Generator
from restain.networks.norm import OnStep, evaluating
from restain.slides.identity import content_key, job_key
from restain.slides.pyramid import Position
from restain.slides.reader import Slide
from restain.slides.tiff import Description
from restain.slides.tissue import TissueMask, find_tissue
from restain.slides.writer import BACKGROUND, Colour, SlideWriter
from restain.staining.engines import network_of
from restain.staining.model import Model
from restain.staining.plan import Plan, Work, check_disk, needed_bytes, plan_of
from restain.staining.policies import DenseNorm, SharedNorm, TileNorm, WindowStainer
from restain.staining.settings import SlideSettings
from restain.workers.memory import reused_memory, steady_memory

STATISTICS = "statistics.safetensors"
"""Ending of the file with the statistics of a slide's norms."""


class Sitting:
    """A slide, a model and their result. As a context it has the spool of the result.

    Batches are always the same, so that the pixels do not depend on the order of the work.
    """

    def __init__(self, model: Model, slide: Slide, out: Path, settings: SlideSettings) -> None:
        """Plan the work.

        Args:
            model: the model.
            slide: the slide.
            out: the result, `*.ome.tif`.
            settings: how.

        Raises:
            InputError, MissingError: as in `plan_of`; or there is nothing to stain.
        """
        self.model, self.out, self.settings = model, out, settings
        self.plan = plan_of(model, slide, settings)
        self.work = self.plan.work()
        """All work of the network."""
        if not self.work:
            raise InputError(
                f"{slide.path}: no tissue in the area; choose another region, or stain without tissue mask"
            )
        self.job = job_name(model, slide, settings)
        self._stack = ExitStack()
        self._network: WindowStainer | None = None

    def __enter__(self) -> SlideWriter:
        """Open the spool.

        Raises:
            OutputError: the disk is too small, or another process has the spool.
        """
        with ExitStack() as stack:
            needed = needed_bytes(self.work, self.plan.read, self.settings.codec)
            check_disk(self.out, needed, _size(self.out.with_name(f"{self.out.name}.spool")))
            stack.enter_context(evaluating(self.model.generator))
            stack.enter_context(memory_in_words(self.plan))
            stack.enter_context(reused_memory() if self._is_folded else steady_memory())
            description = _describe(self.model, self.plan, self.settings, self.job)
            self.writer = stack.enter_context(
                SlideWriter(self.out, self.plan.pyramid, description, self.settings.codec, job=self.job)
            )
            self._stack = stack.pop_all()
        return self.writer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Close the spool; finished tiles are kept for the next run."""
        return self._stack.__exit__(kind, error, trace)

    def prepare(self, on_progress: OnStep | None = None) -> None:
        """Compute the statistics of the slide and the colour of its glass, or restore those of an earlier run.

        Args:
            on_progress: called while statistics are computed, with steps done and in all.

        Raises:
            As `network_of`.
        """
        self._network = network_of(
            self.model, self.plan, self.settings, self.writer.spool.folder / STATISTICS, on_progress, job=self.job
        )
        self.writer.background = background_of(self._network, self.work, self.plan, self.writer)

    def network(self) -> WindowStainer:
        """The network under its norm policy; for a finished slide, with the statistics beside the result."""
        if self._network is None:
            kept = beside(self.out, STATISTICS)
            self._network = network_of(self.model, self.plan, self.settings, kept, job=self.job)
        return self._network

    @cached_property
    def batches(self) -> list[list[Work]]:
        """All work in its fixed batches."""
        return [self.work[start : start + self.plan.batch] for start in range(0, len(self.work), self.plan.batch)]

    def read(self, one: Work) -> RGB:
        """The input of the network for one tile."""
        return self.plan.read(one.tile.window)

    def stain(self, batch: Sequence[Work], windows: Sequence[RGB]) -> NDArray[np.uint8]:
        """Stain the windows of one batch, B x H x W x 3. After `prepare`."""
        assert self._network is not None
        return to_uint8(self._network(to_tensor(np.stack(windows)), batch[0].tile.window))

    def encode(self, batch: Sequence[Work], virtual: NDArray[np.uint8]) -> list[tuple[Position, bytes]]:
        """The tiles of the file that a stained batch fills."""
        return [
            self.writer.encode(position, self._drawn(rgb[box.within(one.tile.window).slices], self.plan.drawn_in(box)))
            for one, rgb in zip(batch, virtual, strict=True)
            for position, box in ((position, self.plan.box(position)) for position in one.positions)
        ]

    def stain_at(self, index: int) -> set[Position]:
        """Stain the batch of a tile and store it; returns the tiles of the file that it finishes."""
        batch = self.batches[index // self.plan.batch]
        tiles = self.encode(batch, self.stain(batch, [self.read(one) for one in batch]))
        self.writer.put(tiles)
        return {position for position, _ in tiles}

    @property
    def _is_folded(self) -> bool:
        """Whether the network runs without norms, see `restain.networks.norm.freeze`."""
        return not isinstance(self.settings.norm, DenseNorm | TileNorm) and isinstance(self.model.generator, Generator)

    def _drawn(self, rgb: RGB, inside: NDArray[np.bool_] | None) -> RGB:
        """Fill pixels outside the polygons with the colour of glass."""
        if inside is None or inside.all():
            return rgb
        return np.where(inside[..., None], rgb, np.array(self.writer.background, np.uint8))


def job_name(model: Model, slide: Slide, settings: SlideSettings) -> str:
    """Identifies everything that the pixels depend on."""
    files = {}
    if isinstance(settings.norm, SharedNorm):
        files["norm"] = settings.norm.digest
    if settings.rois and settings.rois.is_file():
        files["rois"] = hashlib.sha256(settings.rois.read_bytes()).hexdigest()
    return job_key(
        {
            "slide": content_key(slide.path),
            "slide mpp": slide.mpp,
            "model": model.sha256,
            "model mpp": settings.model_mpp or model.mpp,
            "norm": "a file" if "norm" in files else settings.norm.word,
            "settings": [settings.tile_px, settings.halo_px, settings.region, settings.tissue_mask],
            "rois": settings.rois is not None,
            "files": files,
            "numbers": [settings.bfloat16, settings.batch, model.device.type, settings.engine],
            "codec": str(settings.codec),
            "version": version("restain"),
        }
    )


def _describe(model: Model, plan: Plan, settings: SlideSettings, job: str) -> Description:
    slide = plan.slide
    stain = f"virtual {model.stain or 'IHC'}"
    return Description(
        name=f"{slide.path.name}, {stain}",
        mpp=round(plan.mpp, 9),
        stain=stain,
        origin_um=(plan.area.x * plan.mpp, plan.area.y * plan.mpp),
        icc_profile=slide.icc_profile,
        provenance={
            "software": f"restain {version('restain')}, torch {torch.__version__}",
            "warning": "Virtual stain, drawn by a network from H&E; for research, not for diagnosis.",
            "source": slide.path.name,
            "source mpp": f"{slide.mpp:.6g} {slide.mpp_origin}",
            "model": model.name,
            "model sha256": model.sha256,
            "model mpp": f"{plan.mpp:.6g}",
            "norm": settings.norm.word,
            "tile": f"{plan.tile_px} px, halo {plan.halo_px} px, batch {settings.batch or 'not given'}",
            "arithmetic": f"{'bfloat16' if settings.bfloat16 else 'float32'}, {settings.engine} on {model.device.type}",
            "compression": settings.codec.words,
            "region": "all of it" if settings.region is None else ",".join(map(str, settings.region)),
            "stained": _stained(plan, settings),
            "job": job,
        },
    )


def _stained(plan: Plan, settings: SlideSettings) -> str:
    if settings.rois:
        return f"polygons of {settings.rois.name}"
    return "tissue" if plan.tissue else "everything"


@contextmanager
def memory_in_words(plan: Plan) -> Iterator[None]:
    """Raise torch's out-of-memory error as a restain error."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RestainError(
            f"tiles of {plan.tile_px} px do not fit in memory; choose smaller tiles or batches"
        ) from error


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0


def background_of(network: WindowStainer, work: Sequence[Work], plan: Plan, writer: SlideWriter) -> Colour:
    """The colour that the network gives to glass, so that unstained areas match stained ones.

    From the tile with most glass, if there is one; else that of clean glass.
    """
    if noted := writer.spool.note("background"):
        red, green, blue = map(int, noted.split())
        return red, green, blue
    colour = BACKGROUND
    if tissue := _tissue_known(plan):
        scale = plan.slide.scale(plan.mpp)
        shares = [
            tissue.share(*(side * scale for side in (core.x, core.y, core.width, core.height)))
            for core in (one.tile.core for one in work)
        ]
        least = int(np.argmin(shares))
        if shares[least] < 0.9:
            colour = _glass(network, work[least], plan)
    writer.spool.set_note("background", " ".join(map(str, colour)))
    return colour


def _tissue_known(plan: Plan) -> TissueMask | None:
    """The tissue of a slide that is only partly stained; polygons do not define it."""
    if not plan.drawn:
        return plan.tissue
    try:
        return find_tissue(plan.slide)
    except InputError:  # there is none, so glass cannot be recognised
        return None


def _glass(network: WindowStainer, work: Work, plan: Plan) -> Colour:
    """Median colour that the network gives to the lightest tenth of a tile."""
    window = work.tile.window
    rgb = plan.read(window)
    virtual = to_uint8(network(to_tensor(rgb), window))[0]
    brightness = rgb.min(axis=2)
    glass = virtual[brightness >= np.quantile(brightness, 0.9)]
    red, green, blue = (int(value) for value in np.median(glass, axis=0))
    return red, green, blue
