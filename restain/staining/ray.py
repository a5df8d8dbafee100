"""Stains many slides on Ray: one slide is one task, a GPU is a resource, and the task of a lost worker is tried again.

What a lost worker had finished of its slide lies on the shared disk, so that the next one goes on with it.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from restain.errors import RestainError
from restain.staining.archive import ArchiveOutcome, Result, attempt
from restain.staining.inputs import SlideJob
from restain.staining.model import Model, load_model
from restain.staining.settings import SlideSettings
from restain.staining.slide import Extra
from restain.workers.ray import LOCAL, TaskError, connected


def stain_on_ray(
    model: Path,
    jobs: Sequence[SlideJob],
    settings: SlideSettings,
    *,
    address: str = LOCAL,
    device: str | None = None,
    workers: int = 1,
    overwrite: bool = False,
    extra: Extra | None = None,
    on_slide: Callable[[SlideJob, Result], None] | None = None,
) -> ArchiveOutcome:
    """Stain slides on a Ray cluster; what fails does not stop the others, what is finished is skipped.

    A slide takes one GPU where the network runs on GPUs, and one CPU; on a `local` cluster its share of the CPUs.

    Args:
        model: checkpoint of a generator.
        jobs: from `restain.staining.inputs.find_slides`.
        settings: for all of them; a job's own micrometres per pixel go first.
        address: of a running cluster, such as `auto` or `ray://head:10001`, or `local`.
        device: `cpu` or `cuda`; cuda where the cluster has GPUs, if not given.
        workers: slides at the same time on a `local` cluster; a running cluster decides by what it has.
        overwrite: as in `stain_slide`.
        extra: likewise.
        on_slide: called when a slide is done or has failed.

    Raises:
        InputError: Ray is not installed, the cluster does not answer, or has no GPU though one is asked for.
        MissingError, CheckpointError: the model cannot be used.
    """
    if extra:
        extra.check(settings)
    load_model(model)  # a wrong one is told here, not for each slide
    settings = _anywhere(settings)
    outcome = ArchiveOutcome()
    with connected(address, workers) as cluster:
        device = cluster.device(device)
        there = [SlideJob(job.source.absolute(), job.target.absolute(), job.mpp) for job in jobs]
        calls = [(model.absolute(), job, settings, device, overwrite, extra) for job in there]
        for index, result in cluster.each(_stain, calls, device=device):
            job = jobs[index]
            if isinstance(result, TaskError):
                result = RestainError(f"{job.source}: {result}")
            outcome.note(job, result)
            if on_slide:
                on_slide(job, result)
    return outcome


def _anywhere(settings: SlideSettings) -> SlideSettings:
    """The same for workers that were started in another folder."""
    return replace(settings, rois=settings.rois and settings.rois.absolute())


@lru_cache(maxsize=1)
def _load(model: Path, device: str) -> Model:
    """The model, loaded once in each worker's process."""
    return load_model(model, device)


def _stain(
    model: Path, job: SlideJob, settings: SlideSettings, device: str, overwrite: bool, extra: Extra | None
) -> Result:
    """One task."""
    try:
        loaded = _load(model, device)
    except RestainError as error:
        return RestainError(f"{job.source}: {error} (on {platform.node()}, which must see the same files)")
    return attempt(loaded, job, settings, overwrite, extra)
