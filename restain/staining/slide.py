"""Stains a whole slide: reads, runs the network and encodes at the same time, in bounded memory, and can be resumed.

What is done is decided in `plan`, finished tiles are kept by `writer`; here they meet the network. Threads read windows
ahead of it and encode what it gave, a bounded number of tiles each; the network runs in the calling thread.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from restain.errors import InputError, OutputError, RestainError
from restain.image import to_tensor, to_uint8
from restain.networks.generator import Generator
from restain.networks.norm import evaluating
from restain.slides.codec import RGB
from restain.slides.identity import content_key, job_key, job_of
from restain.slides.layout import Position
from restain.slides.reader import Slide, open_slide
from restain.slides.spool import forget_spool
from restain.slides.tiff import Description
from restain.slides.tissue import save_tissue
from restain.slides.writer import SlideWriter
from restain.staining.memory import most_px
from restain.staining.plan import Plan, Work, check_disk, needed_bytes
from restain.staining.policies import Network
from restain.staining.prepare import background_of, network_of, plan_of
from restain.staining.settings import Model, OnProgress, SlideReport, SlideSettings, load_model
from restain.staining.statistics import load_statistics, save_statistics
from restain.staining.trust_files import is_mapped, load_others, made_with, make_map
from restain.workers.memory import reused_memory, steady_memory
from restain.workers.threads import ahead


def stain_slide(
    model: Model | Path,
    source: Path,
    out: Path,
    settings: SlideSettings | None = None,
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> SlideReport:
    """Stain one slide to a pyramidal OME-TIFF.

    Killed at any moment, the same call goes on where it stopped, and ends with the same pixels. Beside the result go
    the tissue, as `*.tissue.png` and `*.tissue.geojson`, the statistics of its norms, `*.statistics.safetensors`, and
    where asked for a map of where not to believe it, `*.trust.png` and `*.trust.csv`.

    Args:
        model: from `load_model`, or a checkpoint, which is then used on the CPU.
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
    model = load_model(model) if isinstance(model, Path) else model
    report = SlideReport(out)
    if not out.name.lower().endswith((".ome.tif", ".ome.tiff")):
        raise InputError(f"{out}: a stained slide is an OME-TIFF; give a name that ends in .ome.tif")
    map_files = _beside(out, "trust.csv"), _beside(out, "trust.png")
    with open_slide(source, settings.mpp) as slide:
        job = _job(model, source, slide, settings)
        report.skipped = out.exists() and job_of(out) == job
        if report.skipped:
            forget_spool(out, job)
        if report.skipped and (not settings.trust or is_mapped(model, settings, *map_files)):
            return report
        if out.exists() and not (overwrite or report.skipped):
            raise OutputError(f"{out} exists and is another result; choose another name, or allow it (--overwrite)")
        if out.resolve() == source.resolve():
            raise OutputError(f"{out} is the slide itself; choose another name")
        others = load_others(model, settings)
        plan = plan_of(model, slide, settings, report.notes)
        with evaluating(model.generator), _memory_in_words(plan):
            if not report.skipped:
                _stain(model, plan, settings, out, job, report, on_progress)
            if settings.trust:
                kept = _beside(out, _STATISTICS)
                trust = make_map(model, others, plan, settings, kept, on_progress)
                report.notes.append(str(trust))
                trust.save(*map_files, made_with(model, settings))
    return report


def _stain(
    model: Model,
    plan: Plan,
    settings: SlideSettings,
    out: Path,
    job: str,
    report: SlideReport,
    on_progress: OnProgress | None,
) -> None:
    """Stain what an earlier run has not, and put the file together."""
    work = plan.work()
    if not work:
        raise InputError(f"{plan.slide.path}: no tissue there; choose another region, or --no-tissue-mask")
    needed = needed_bytes(work, plan.read, settings.codec)
    check_disk(out, needed, _size(out.with_name(f"{out.name}.spool")))
    description = _describe(model, plan, settings, job)
    with SlideWriter(out, plan.layout, description, settings.codec, job=job) as writer:
        if writer.spool.resumed:
            report.notes.append("continues an earlier run")
        together = settings.batch or (1 if model.device.type == "cpu" else 2)
        if model.device.type == "cpu":
            window_px = (plan.tile_px + 2 * plan.halo_px) ** 2
            most = most_px(model.generator, settings.norm) // 2  # windows together take up to twice as much per px
            together = max(1, min(together, most // window_px))
        with reused_memory() if _is_folded(model, settings) else steady_memory():
            with _clock(report.seconds, "statistics"):
                network = network_of(model, plan, settings, writer.spool.folder / _STATISTICS)
            writer.background = background_of(network, work, plan, writer)
            _stain_work(network, work, plan, settings, together, writer, report, on_progress)
        with _clock(report.seconds, "pyramid and file"):
            given = {path.resolve() for path in (settings.rois, Path(settings.norm)) if path}
            for ending in ("tissue.png", "tissue.geojson", _STATISTICS, "trust.csv", "trust.png"):
                if _beside(out, ending).resolve() not in given:
                    _beside(out, ending).unlink(missing_ok=True)  # of another result
            if plan.tissue:
                save_tissue(plan.tissue, plan.slide, _beside(out, "tissue.png"), _beside(out, "tissue.geojson"))
            if (kept := writer.spool.folder / _STATISTICS).exists():
                save_statistics(_beside(out, _STATISTICS), load_statistics(kept), model=model.sha256)
            writer.finish(workers=settings.workers)


def _is_folded(model: Model, settings: SlideSettings) -> bool:
    """Whether the network runs without norms, see `restain.networks.norm.freeze`."""
    return settings.norm not in ("dense", "tile") and isinstance(model.generator, Generator)


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
            "norm": "a file" if "norm" in files else settings.norm,
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
            "norm": settings.norm,
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
                writer.encode(position, _drawn(rgb[box.within(one.tile.window).slices], plan.drawn_in(box), writer))
                for one, rgb in batch
                for position, box in ((position, plan.box(position)) for position in one.positions)
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


def _drawn(rgb: RGB, inside: NDArray[np.bool_] | None, writer: SlideWriter) -> RGB:
    """Put the colour of glass where nobody has drawn."""
    if inside is None or inside.all():
        return rgb
    return np.where(inside[..., None], rgb, np.array(writer.background, np.uint8))


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
