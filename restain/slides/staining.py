"""Stains a whole slide: reads, runs the network and encodes at the same time, in bounded memory, and can be resumed.

What is done is decided in `plan`, finished tiles are kept by `writer`; here they meet the network. Threads read windows
ahead of it and encode what it gave, a bounded number of tiles each; the network runs in the calling thread.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from restain.errors import InputError, OutputError, RestainError
from restain.image import to_tensor, to_uint8
from restain.networks.norm import evaluating, freeze
from restain.slides.ahead import ahead
from restain.slides.codec import RGB
from restain.slides.identity import content_key, job_key, job_of
from restain.slides.layout import Position
from restain.slides.norm import Network, find_norm, tiled_network
from restain.slides.plan import Plan, Work, check_disk, make_plan, needed_bytes
from restain.slides.reader import Slide, open_slide
from restain.slides.settings import Model, SlideReport, SlideSettings
from restain.slides.statistics import SAMPLE_PX, load_statistics, sample_statistics, save_statistics
from restain.slides.tiff import Description
from restain.slides.tiling import Box
from restain.slides.tissue import TissueMask, find_tissue, load_rois, save_tissue
from restain.slides.writer import BACKGROUND, Colour, SlideWriter

OnProgress = Callable[[int, int, float, float], None]
"""Called with tiles done and in all, megapixels done and in all."""


def stain_slide(
    model: Model,
    source: Path,
    out: Path,
    settings: SlideSettings | None = None,
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> SlideReport:
    """Stain one slide to a pyramidal OME-TIFF.

    Killed at any moment, the same call goes on where it stopped, and ends with the same pixels. Beside the result go
    the tissue, as `*.tissue.png` and `*.tissue.geojson`, and the statistics of its norms, `*.statistics.safetensors`.

    Args:
        model: from `load_model`.
        source: the slide.
        out: the result, `*.ome.tif`.
        settings: the defaults if not given.
        overwrite: whether another result may be replaced; the same one, whole, is left as it is.
        on_progress: called after each batch.

    Returns:
        What was done.

    Raises:
        MissingError, InputError: the slide, or what it is stained with, cannot be used.
        OutputError: the result cannot be written, the disk is too small, or another result is there.
    """
    settings = settings or SlideSettings()
    report = SlideReport(out)
    if not out.name.lower().endswith((".ome.tif", ".ome.tiff")):
        raise InputError(f"{out}: a stained slide is an OME-TIFF; give a name that ends in .ome.tif")
    with open_slide(source, settings.mpp) as slide:
        job = _job(model, source, slide, settings)
        if out.exists() and job_of(out) == job:
            report.skipped = True
            return report
        if out.exists() and not overwrite:
            raise OutputError(f"{out} exists and is another result; choose another name, or allow it (--overwrite)")
        if out.resolve() == source.resolve():
            raise OutputError(f"{out} is the slide itself; choose another name")
        plan = make_plan(
            slide,
            _model_mpp(model, slide, settings, report),
            tile_px=settings.tile_px,
            halo_px=model.generator.halo_px if settings.halo_px is None else settings.halo_px,
            multiple=model.generator.multiple,
            region=settings.region,
            tissue=_tissue(slide, settings),
        )
        work = plan.work()
        if not work:
            raise InputError(f"{source}: no tissue there; choose another region, or --no-tissue-mask")
        needed = needed_bytes(work, plan.read, settings.codec)
        check_disk(out, needed, _size(out.with_name(f"{out.name}.spool")))
        description = _describe(model, slide, plan, settings, job)
        with SlideWriter(out, plan.layout, description, settings.codec, job=job) as writer:
            if writer.spool.resumed:
                report.notes.append("continues an earlier run")
            with evaluating(model.generator), _memory_in_words(plan):
                network = _network(model, plan, settings, writer)
                writer.background = _background(network, work, plan, writer)
                together = settings.batch or (1 if model.device.type == "cpu" else 8)
                _stain_work(network, work, plan, settings, together, writer, report, on_progress)
            with _clock(report.seconds, "pyramid and file"):
                if plan.tissue:
                    save_tissue(plan.tissue, slide, _beside(out, "tissue.png"), _beside(out, "tissue.geojson"))
                if (kept := writer.spool.folder / _STATISTICS).exists():
                    save_statistics(_beside(out, _STATISTICS), load_statistics(kept), model=model.sha256)
                writer.finish(workers=settings.workers)
    return report


_STATISTICS = "statistics.safetensors"


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name[: out.name.lower().rindex('.ome.')]}.{ending}")


def _job(model: Model, source: Path, slide: Slide, settings: SlideSettings) -> str:
    """Names everything that the pixels depend on."""
    files = {}
    for name, given in (("norm", settings.norm), ("rois", settings.rois)):
        if given and Path(given).is_file():
            files[name] = hashlib.sha256(Path(given).read_bytes()).hexdigest()
    return job_key(
        {
            "slide": content_key(source),
            "slide mpp": slide.mpp,
            "model": model.sha256,
            "model mpp": settings.model_mpp or model.mpp,
            "settings": [settings.norm, settings.tile_px, settings.halo_px, settings.region, settings.tissue_mask],
            "rois": settings.rois is not None,
            "files": files,
            "numbers": [settings.bfloat16, settings.batch, model.device.type],
            "codec": str(settings.codec),
            "version": version("restain"),
        }
    )


def _model_mpp(model: Model, slide: Slide, settings: SlideSettings, report: SlideReport) -> float:
    """Micrometres per pixel at which the network works; says so where it is not the slide's."""
    report.notes.append(f"{slide.mpp:.4g} µm per px, {slide.mpp_origin}")
    wanted = settings.model_mpp or model.mpp
    if wanted is None:
        report.notes.append("the model does not tell its µm per px, so the slide is read as it is (see --model-mpp)")
        return slide.mpp
    if slide.scale(wanted) != 1:
        change = "reduced" if slide.scale(wanted) > 1 else "enlarged, which adds no detail,"
        report.notes.append(f"{change} to {wanted:.4g} µm per px, which the model was trained at")
    return wanted


def _tissue(slide: Slide, settings: SlideSettings) -> TissueMask | None:
    if settings.rois:
        return load_rois(settings.rois, slide)
    return find_tissue(slide) if settings.tissue_mask else None


def _describe(model: Model, slide: Slide, plan: Plan, settings: SlideSettings, job: str) -> Description:
    stain = f"virtual {model.stain or 'IHC'}"
    return Description(
        name=f"{slide.path.name}, {stain}",
        mpp=plan.mpp,
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
            "norm": settings.norm,
            "tile": f"{plan.tile_px} px, halo {plan.halo_px} px",
            "compression": str(settings.codec),
            "stained": "tissue" if plan.tissue else "everything",
            "job": job,
        },
    )


def _network(model: Model, plan: Plan, settings: SlideSettings, writer: SlideWriter) -> Network:
    """The generator under its norm policy. Statistics that an earlier run took are taken up again."""
    generator, device = model.generator, model.device
    policy = find_norm(settings.norm, model.sha256)
    if policy == "dense" or policy == "tile":
        run = tiled_network(generator, policy, plan.size, plan.read, tile_px=plan.tile_px)
    else:
        if policy == "slide":
            kept = writer.spool.folder / _STATISTICS
            if not kept.exists():
                found = sample_statistics(generator, list(plan.tiles(SAMPLE_PX)), plan.read)
                save_statistics(kept, found, model=model.sha256)
            policy = load_statistics(kept, model=model.sha256)
        # channels last: a seventh less time on a CPU, at width 32
        frozen = freeze(generator, policy).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as torch documents

        def run(windows: Tensor, place: Box) -> Tensor:
            del place
            virtual: Tensor = frozen(windows.to(device, memory_format=torch.channels_last))
            return virtual

    def network(windows: Tensor, place: Box) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
            return run(windows, place)

    return network


def _background(network: Network, work: Sequence[Work], plan: Plan, writer: SlideWriter) -> Colour:
    """The colour that the network gives to glass, so that what is left out looks like what is not.

    From the tile with most glass, where one has some; else that of clean glass.
    """
    if noted := writer.spool.note("background"):
        red, green, blue = map(int, noted.split())
        return red, green, blue
    colour = BACKGROUND
    if plan.tissue:
        scale = plan.slide.scale(plan.mpp)
        shares = [
            plan.tissue.share(*(side * scale for side in (core.x, core.y, core.width, core.height)))
            for core in (one.tile.core for one in work)
        ]
        least = int(np.argmin(shares))
        if shares[least] < 0.9:
            colour = _glass(network, work[least], plan)
    writer.spool.set_note("background", " ".join(map(str, colour)))
    return colour


def _glass(network: Network, work: Work, plan: Plan) -> Colour:
    """Median colour that the network gives to the lightest tenth of a tile."""
    window = work.tile.window
    rgb = plan.read(window)
    virtual = to_uint8(network(to_tensor(rgb), window))[0]
    brightness = rgb.min(axis=2)
    glass = virtual[brightness >= np.quantile(brightness, 0.9)]
    red, green, blue = (int(value) for value in np.median(glass, axis=0))
    return red, green, blue


def _stain_work(
    network: Network,
    work: Sequence[Work],
    plan: Plan,
    settings: SlideSettings,
    together: int,
    writer: SlideWriter,
    report: SlideReport,
    on_progress: OnProgress | None,
) -> None:
    """Stain what is not yet finished. Batches are always the same, so that a resumed run computes the same."""
    finished = writer.finished()
    size = 1 if settings.norm == "dense" else together  # dense: each place has statistics of its own
    batches = list(_batched(work, size))
    todo = [batch for batch in batches if not all(finished.issuperset(one.positions) for one in batch)]
    total, total_px = len(work), sum(map(_pixels, work))
    done = total - sum(map(len, todo))
    done_px = total_px - sum(_pixels(one) for batch in todo for one in batch)

    def read(one: Work) -> tuple[Work, RGB]:
        with _clock(report.seconds, "reading"):
            return one, plan.read(one.tile.window)

    def stain(windows: Sequence[tuple[Work, RGB]]) -> list[tuple[Work, RGB]]:
        with _clock(report.seconds, "network"):
            batch = to_tensor(np.stack([rgb for _, rgb in windows]))
            virtual = to_uint8(network(batch, windows[0][0].tile.window))
        return [(one, rgb) for (one, _), rgb in zip(windows, virtual, strict=True)]

    def encode(batch: Sequence[tuple[Work, RGB]]) -> list[tuple[Position, bytes]]:
        with _clock(report.seconds, "encoding"):
            return [
                writer.encode(position, rgb[plan.box(position).within(one.tile.window).slices])
                for one, rgb in batch
                for position in one.positions
            ]

    with ThreadPoolExecutor(settings.workers) as readers, ThreadPoolExecutor(settings.workers) as encoders:
        windows = ahead(readers, read, (one for batch in todo for one in batch), max(2 * size, 2 * settings.workers))
        stained = (stain(list(islice(windows, len(batch)))) for batch in todo)
        for batch, tiles in zip(todo, ahead(encoders, encode, stained, settings.workers + 1), strict=True):
            with _clock(report.seconds, "keeping"):
                writer.put(tiles)
            done, done_px = done + len(batch), done_px + sum(map(_pixels, batch))
            report.megapixels += sum(map(_pixels, batch)) / 1e6
            if on_progress:
                on_progress(done, total, done_px / 1e6, total_px / 1e6)


def _pixels(work: Work) -> int:
    return work.tile.core.width * work.tile.core.height


def _batched(work: Iterable[Work], size: int) -> Iterator[list[Work]]:
    items = iter(work)
    while batch := list(islice(items, size)):
        yield batch


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


@contextmanager
def _memory_in_words(plan: Plan) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RestainError(
            f"tiles of {plan.tile_px} px do not fit into the memory; choose a smaller --tile-px or --batch"
        ) from error


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
