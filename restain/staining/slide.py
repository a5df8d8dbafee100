"""Stains a whole slide: reads, runs the network and encodes at the same time, in bounded memory, and can be resumed.

The work is planned in `plan`, and finished tiles are stored by `writer`. Threads read windows ahead of the network and
encode its results, a bounded number of tiles each; the network runs in the calling thread.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from restain.errors import InputError, OutputError
from restain.folders import BESIDE_SLIDES, beside
from restain.image import RGB
from restain.slides.identity import job_of
from restain.slides.kinds import names_result
from restain.slides.ngff import is_ngff
from restain.slides.pyramid import Position
from restain.slides.reader import open_slide
from restain.slides.spool import forget_spool
from restain.slides.tissue import save_tissue
from restain.staining.model import Model, load_model
from restain.staining.plan import Work
from restain.staining.policies import SharedNorm
from restain.staining.settings import OnProgress, SlideReport, SlideSettings
from restain.staining.sitting import STATISTICS, Sitting, job_name
from restain.staining.statistics import load_statistics, save_statistics
from restain.workers.threads import ahead


class Extra(Protocol):
    """Something to make for each slide beside its result, such as a trust map. It must pickle."""

    def check(self, settings: SlideSettings) -> None:
        """Refuse settings that it does not support."""

    def is_made(self, model: Model, out: Path) -> bool:
        """Whether it exists beside a result and is up to date."""

    def make(self, sitting: Sitting, on_progress: OnProgress | None) -> list[str]:
        """Make it for a stained slide; returns notes for the report."""


def stain_slide(
    model: Model | Path,
    source: Path,
    out: Path,
    settings: SlideSettings | None = None,
    *,
    overwrite: bool = False,
    extra: Extra | None = None,
    on_progress: OnProgress | None = None,
) -> SlideReport:
    """Stain one slide to a pyramidal OME-TIFF.

    After a kill, the same call resumes and gives the same pixels. Beside the result go
    the tissue, as `*.tissue.png` and `*.tissue.geojson`, and the statistics of its norms, `*.statistics.safetensors`.

    Args:
        model: from `load_model`, or a checkpoint, which is then used on the CPU.
        source: the slide.
        out: the result, `*.ome.tif`.
        settings: the defaults if not given.
        overwrite: whether another result may be replaced; the same one, if complete, is kept.
        extra: what else to make for the slide, also for an existing result.
        on_progress: called after each batch.

    Returns:
        The report.

    Raises:
        MissingError, InputError: the slide, the model or the settings cannot be used.
        OutputError: the result cannot be written, the disk is too small, or another result is there.
    """
    settings = settings or SlideSettings()
    model = load_model(model) if isinstance(model, Path) else model
    if not names_result(out):
        raise InputError(f"{out}: a stained slide is an OME-TIFF or OME-Zarr; end its name in .ome.tif or .ome.zarr")
    if is_ngff(out) and not find_spec("zarr"):
        raise InputError(f"{out}: OME-Zarr needs the package zarr; run pip install 'restain[zarr]', or choose .ome.tif")
    if extra:
        extra.check(settings)
    with open_slide(source, settings.mpp) as slide:
        job = job_name(model, slide, settings)
        whole = out.exists() and job_of(out) == job
        if whole:
            forget_spool(out, job)
        if whole and (extra is None or extra.is_made(model, out)):
            return SlideReport(out, skipped=True)
        if out.exists() and not (overwrite or whole):
            raise OutputError(f"{out} exists and is another result; choose another name, or allow overwriting")
        if out.resolve() == source.resolve():
            raise OutputError(f"{out} is the slide itself; choose another name")
        sitting = Sitting(model, slide, out, settings)
        report = SlideReport(out, skipped=True) if whole else _stain(sitting, on_progress)
        notes = extra.make(sitting, on_progress) if extra else []
    return replace(report, notes=[*sitting.plan.notes, *report.notes, *notes])


def _stain(sitting: Sitting, on_progress: OnProgress | None) -> SlideReport:
    """Stain the remaining tiles and assemble the file."""
    seconds: dict[str, float] = {}
    with sitting as writer:
        notes = ["resumes an earlier run"] if writer.spool.resumed else []
        with _clock(seconds, "statistics"):
            sitting.prepare()
        megapixels = _stain_batches(sitting, seconds, on_progress)
        with _clock(seconds, "pyramid and file"):
            writer.finish(threads=sitting.settings.threads, at_last=partial(_save_beside, sitting))
    return SlideReport(sitting.out, megapixels, notes, seconds)


def _save_beside(sitting: Sitting) -> None:
    """Save tissue and statistics beside the result, in place of those of another one.

    They are made in the spool, where nothing stays of a file that a killed run was writing.
    """
    plan, settings, out, folder = sitting.plan, sitting.settings, sitting.out, sitting.writer.spool.folder
    norm_file = settings.norm.path if isinstance(settings.norm, SharedNorm) else None
    given = {path.resolve() for path in (settings.rois, norm_file) if path}
    made = set[Path]()
    if plan.tissue:
        picture, outlines = folder / beside(out, "tissue.png").name, folder / beside(out, "tissue.geojson").name
        save_tissue(plan.tissue, plan.slide, picture, outlines)
        made |= {picture, outlines}
    if (kept := folder / STATISTICS).exists():
        own = folder / beside(out, STATISTICS).name
        save_statistics(own, load_statistics(kept), model=sitting.model.sha256, job=sitting.job)
        made.add(own)
    for final in (beside(out, ending) for ending in BESIDE_SLIDES):
        try:
            if (new := folder / final.name) in made:
                new.replace(final)
            elif final.resolve() not in given:
                final.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot replace {final}: {error.strerror}; move it away, then run the same command to resume"
            ) from error


Stained = tuple[Sequence[Work], NDArray[np.uint8]]
"""A batch and its stained windows, B x H x W x 3."""


def _stain_batches(sitting: Sitting, seconds: dict[str, float], on_progress: OnProgress | None) -> float:
    """Stain the unfinished tiles, reading ahead and encoding behind; returns the megapixels stained."""
    finished, threads = sitting.writer.finished(), sitting.settings.threads
    todo = [batch for batch in sitting.batches if not all(finished.issuperset(one.positions) for one in batch)]
    total, total_px = len(sitting.work), sum(map(_pixels, sitting.work))
    done = total - sum(map(len, todo))
    done_px = before_px = total_px - sum(_pixels(one) for batch in todo for one in batch)

    def read(one: Work) -> RGB:
        with _clock(seconds, "reading"):
            return sitting.read(one)

    def stain(batch: Sequence[Work], windows: Sequence[RGB]) -> Stained:
        with _clock(seconds, "network"):
            return batch, sitting.stain(batch, windows)

    def encode(stained: Stained) -> list[tuple[Position, bytes]]:
        with _clock(seconds, "encoding"):
            return sitting.encode(*stained)

    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as encoders:
        windows = ahead(readers, read, (one for batch in todo for one in batch), 2 * max(sitting.plan.batch, threads))
        stained = (stain(batch, list(islice(windows, len(batch)))) for batch in todo)
        for batch, tiles in zip(todo, ahead(encoders, encode, stained, threads + 1), strict=True):
            with _clock(seconds, "keeping"):
                sitting.writer.put(tiles)
            done, done_px = done + len(batch), done_px + sum(map(_pixels, batch))
            if on_progress:
                on_progress(done, total, done_px / 1e6, total_px / 1e6)
    return (done_px - before_px) / 1e6


def _pixels(work: Work) -> int:
    return work.tile.core.width * work.tile.core.height


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
