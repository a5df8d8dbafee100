"""Pieces of work on a Ray cluster: each is a task, a GPU is a resource, and what a lost worker had is tried again.

Every machine sees the same files under the same paths, as on a shared disk, and has the same restain.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from restain.errors import InputError
from restain.workers.interrupts import answers_kept
from restain.workers.pool import ATTEMPTS, TaskError, attempt
from restain.workers.processes import share_of_cores

LOCAL = "local"
"""As an address: a cluster of this machine alone, made for this run."""

_OBJECT_STORE_BYTES = 2**27  # of a local cluster; no pixels pass through it

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to."""

    ray: Any
    """The module."""
    cpus: int
    """Of each task."""
    device: str
    """Where a network runs in a task: `cpu`, or `cuda` for one GPU for itself."""

    def each(
        self,
        work: Callable[..., T],
        arguments: Sequence[tuple[object, ...]],
        *,
        fresh: bool = False,
        on_begin: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, T | TaskError]]:
        """As in `Pool`; Ray does not tell when a task begins."""
        del on_begin
        options = {"num_cpus": self.cpus, "num_gpus": int(self.device != "cpu"), "max_retries": ATTEMPTS - 1}
        task = self.ray.remote(**options, max_calls=int(fresh))(attempt)
        running = {task.remote(work, given): index for index, given in enumerate(arguments)}
        while running:
            (done,), _ = self.ray.wait(list(running), num_returns=1)
            index = running.pop(done)
            yield index, self._result(done)

    def _result(self, done: Any) -> Any:
        try:
            return self.ray.get(done)
        except self.ray.exceptions.RayTaskError as error:  # is never tried again
            return TaskError(f"unexpected {type(error.cause).__name__}: {error.cause}")
        except self.ray.exceptions.RayError as error:
            return TaskError(f"its worker was lost {ATTEMPTS} times ({type(error).__name__}); memory may be too small")


@contextmanager
def connected(address: str, processes: int = 1, device: str | None = None) -> Iterator[Cluster]:
    """Connect to a cluster, or make one of this machine, and leave it at the end.

    Args:
        address: of a running cluster, such as `auto` or `ray://head:10001`, or `local`.
        processes: tasks at the same time on a `local` cluster; a running cluster decides by what it has.
        device: `cpu` or `cuda`; cuda where the cluster has GPUs, if not given.

    Raises:
        InputError: Ray is not installed, the cluster does not answer, or has no GPU though one is asked for.
    """
    cpus = share_of_cores(processes) if address == LOCAL else 1
    ray = _connect(address, processes * cpus)
    try:
        yield Cluster(ray, cpus, _device(ray, device))
    finally:
        ray.shutdown()


def _device(ray: Any, wanted: str | None) -> str:
    gpus = ray.cluster_resources().get("GPU", 0)
    if wanted not in (None, "cpu") and not gpus:
        raise InputError(f"device {wanted}: the Ray cluster has no GPU; 'cpu' always works")
    return "cpu" if wanted == "cpu" or not gpus else "cuda"  # which one, Ray decides


def _connect(address: str, cpus: int) -> Any:
    """The module of Ray, connected to a cluster."""
    try:
        import ray
    except ImportError as error:
        raise InputError("Ray is missing; install restain[ray], or work in processes of this machine") from error
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
            local = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
            with answers_kept():  # Ray would end the process at a SIGTERM
                ray.init(address=LOCAL, **local, **quiet)
        else:
            _knock(address)
            with answers_kept():
                ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address} ({error}); give the address of a running one, or 'local'"
        ) from error
    return ray


def _knock(address: str) -> None:
    """See whether somebody listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
