"""Stains many slides on Ray: one slide is one task, a GPU is a resource, and the task of a lost worker is tried again.

Every machine sees the slides, the model and the results under the same paths, as on a shared disk. What a lost worker
had finished of its slide lies there too, so that the next one goes on with it.
"""

import logging
import os
import platform
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from restain.errors import InputError, RestainError
from restain.slides.archive import ATTEMPTS, ArchiveOutcome, attempt
from restain.slides.jobs import SlideJob
from restain.slides.settings import Model, SlideReport, SlideSettings, load_model

LOCAL = "local"
"""As an address: a cluster of this machine alone, made for this run."""

_OBJECT_STORE_BYTES = 2**27  # of a local cluster; no pixels pass through it


def stain_on_ray(
    model: Path,
    jobs: Sequence[SlideJob],
    settings: SlideSettings,
    *,
    address: str = LOCAL,
    device: str | None = None,
    workers: int = 1,
    overwrite: bool = False,
    on_slide: Callable[[SlideJob, SlideReport | RestainError], None] | None = None,
) -> ArchiveOutcome:
    """Stain slides on a Ray cluster; what fails does not stop the others, what is finished is skipped.

    A slide takes one GPU where the network runs on GPUs, and one CPU; on a `local` cluster its share of the CPUs.

    Args:
        model: checkpoint of a generator.
        jobs: from `restain.slides.jobs.find_slides`.
        settings: for all of them; a job's own micrometres per pixel go first.
        address: of a running cluster, such as `auto` or `ray://head:10001`, or `local`.
        device: `cpu` or `cuda`; cuda where the cluster has GPUs, if not given.
        workers: slides at the same time on a `local` cluster; a running cluster decides by what it has.
        overwrite: as in `stain_slide`.
        on_slide: called when a slide is done or has failed.

    Raises:
        InputError: Ray is not installed, the cluster does not answer, or has no GPU though one is asked for.
        MissingError, CheckpointError: the model cannot be used.
    """
    load_model(model)  # a wrong one is told here, not for each slide
    settings = _anywhere(settings)
    cpus = max(1, (os.cpu_count() or 1) // workers) if address == LOCAL else 1
    ray = _connect(address, workers * cpus)
    try:
        gpus = ray.cluster_resources().get("GPU", 0)
        device = device or ("cuda" if gpus else "cpu")
        if device.startswith("cuda"):
            device = "cuda"  # which one, Ray decides
        if device != "cpu" and not gpus:
            raise InputError(f"--device {device}: the Ray cluster has no GPU; 'cpu' always works")
        task = ray.remote(num_cpus=cpus, num_gpus=int(device != "cpu"), max_retries=ATTEMPTS - 1)(_stain)
        running = {}
        for job in jobs:
            there = SlideJob(job.source.absolute(), job.target.absolute(), job.mpp)
            running[task.remote(model.absolute(), there, settings, device, overwrite)] = job
        outcome = ArchiveOutcome()
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(done)
            try:
                result: SlideReport | RestainError = ray.get(done)
            except ray.exceptions.RayError as error:
                lost = f"{job.source}: its worker was lost {ATTEMPTS} times ({type(error).__name__})"
                result = RestainError(f"{lost}; memory may be too small")
            outcome.note(job, result)
            if on_slide:
                on_slide(job, result)
        return outcome
    finally:
        ray.shutdown()


def _connect(address: str, cpus: int) -> Any:
    """The module of Ray, connected to a cluster."""
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray; install restain[ray], or use --workers or --shard") from error
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
            local = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
            ray.init(address=LOCAL, **local, **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--ray {address}: no Ray cluster answers there ({error}); give the address of a running one, or 'local'"
        ) from error
    return ray


def _knock(address: str) -> None:
    """See whether somebody listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _anywhere(settings: SlideSettings) -> SlideSettings:
    """The same for workers that were started in another folder."""
    norm, rois = Path(settings.norm), settings.rois
    return replace(
        settings, norm=str(norm.absolute()) if norm.is_file() else settings.norm, rois=rois and rois.absolute()
    )


@lru_cache(maxsize=1)
def _load(model: Path, device: str) -> Model:
    """The model, loaded once in each worker's process."""
    return load_model(model, device)


def _stain(
    model: Path, job: SlideJob, settings: SlideSettings, device: str, overwrite: bool
) -> SlideReport | RestainError:
    """One task."""
    try:
        loaded = _load(model, device)
    except RestainError as error:
        return RestainError(f"{job.source}: {error} (on {platform.node()}, which must see the same files)")
    return attempt(loaded, job, settings, overwrite)
