"""Stains a whole slide: reads, runs the network and encodes at the same time, in bounded memory, and can be resumed.

What is done is decided in `plan`, finished tiles are kept by `writer`; here they meet the network. Threads read windows
ahead of it and encode what it gave, a bounded number of tiles each; the network runs in the calling thread.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from restain.errors import InputError, OutputError
from restain.folders import beside
from restain.networks.norm import evaluating
from restain.slides.codec import RGB
from restain.slides.identity import job_of
from restain.slides.layout import Position
from restain.slides.reader import open_slide
from restain.slides.spool import forget_spool
from restain.slides.tissue import save_tissue
from restain.staining.plan import Work
from restain.staining.settings import Model, OnProgress, SlideReport, SlideSettings, load_model
from restain.staining.sitting import STATISTICS, Sitting, job_name, memory_in_words
from restain.staining.statistics import load_statistics, save_statistics
from restain.staining.trust_files import is_mapped, load_others, made_with, make_map
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
    map_files = beside(out, "trust.csv"), beside(out, "trust.png")
    with open_slide(source, settings.mpp) as slide:
        job = job_name(model, slide, settings)
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
        sitting = Sitting(model, slide, out, settings)
        report.notes += sitting.notes
        if not report.skipped:
            _stain(sitting, report, on_progress)
        if settings.trust:
            with evaluating(model.generator), memory_in_words(sitting.plan):
                trust = make_map(model, others, sitting.plan, settings, beside(out, STATISTICS), on_progress)
                report.notes.append(str(trust))
                trust.save(*map_files, made_with(model, settings))
    return report


def _stain(sitting: Sitting, report: SlideReport, on_progress: OnProgress | None) -> None:
    """Stain what an earlier run has not, and put the file together."""
    plan, settings, out = sitting.plan, sitting.settings, sitting.out
    with sitting as writer:
        if writer.spool.resumed:
            report.notes.append("continues an earlier run")
        with _clock(report.seconds, "statistics"):
            sitting.prepare()
        _stain_batches(sitting, report, on_progress)
        with _clock(report.seconds, "pyramid and file"):
            given = {path.resolve() for path in (settings.rois, Path(settings.norm)) if path}
            for ending in ("tissue.png", "tissue.geojson", STATISTICS, "trust.csv", "trust.png"):
                if beside(out, ending).resolve() not in given:
                    beside(out, ending).unlink(missing_ok=True)  # of another result
            if plan.tissue:
                save_tissue(plan.tissue, plan.slide, beside(out, "tissue.png"), beside(out, "tissue.geojson"))
            if (kept := writer.spool.folder / STATISTICS).exists():
                save_statistics(beside(out, STATISTICS), load_statistics(kept), model=sitting.model.sha256)
            writer.finish(workers=settings.workers)


Stained = tuple[Sequence[Work], NDArray[np.uint8]]
"""A batch and its stained windows, B x H x W x 3."""


def _stain_batches(sitting: Sitting, report: SlideReport, on_progress: OnProgress | None) -> None:
    """Stain what is not yet finished: read ahead, encode behind."""
    finished, workers, seconds = sitting.writer.finished(), sitting.settings.workers, report.seconds
    todo = [batch for batch in sitting.batches if not all(finished.issuperset(one.positions) for one in batch)]
    total, total_px = len(sitting.work), sum(map(_pixels, sitting.work))
    done = total - sum(map(len, todo))
    done_px = total_px - sum(_pixels(one) for batch in todo for one in batch)

    def read(one: Work) -> RGB:
        with _clock(seconds, "reading"):
            return sitting.read(one)

    def stain(batch: Sequence[Work], windows: Sequence[RGB]) -> Stained:
        with _clock(seconds, "network"):
            return batch, sitting.stain(batch, windows)

    def encode(stained: Stained) -> list[tuple[Position, bytes]]:
        with _clock(seconds, "encoding"):
            return sitting.encode(*stained)

    with ThreadPoolExecutor(workers) as readers, ThreadPoolExecutor(workers) as encoders:
        windows = ahead(readers, read, (one for batch in todo for one in batch), 2 * max(sitting.together, workers))
        stained = (stain(batch, list(islice(windows, len(batch)))) for batch in todo)
        for batch, tiles in zip(todo, ahead(encoders, encode, stained, workers + 1), strict=True):
            with _clock(seconds, "keeping"):
                sitting.writer.put(tiles)
            done, done_px = done + len(batch), done_px + sum(map(_pixels, batch))
            report.megapixels += sum(map(_pixels, batch)) / 1e6
            if on_progress:
                on_progress(done, total, done_px / 1e6, total_px / 1e6)


def _pixels(work: Work) -> int:
    return work.tile.core.width * work.tile.core.height


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
