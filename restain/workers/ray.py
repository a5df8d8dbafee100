"""Runs tasks on a Ray cluster, one GPU each; tasks of a lost worker are tried again.

All machines see the same files under the same paths, as on a shared disk, and have the same restain.
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
"""Address of a cluster of this machine alone, started for this run."""

_OBJECT_STORE_BYTES = 2**27  # of a local cluster, which passes no pixels

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to."""

    ray: Any
    """The module."""
    cpus: int
    """Of each task."""
    device: str
    """The device of networks in a task: `cpu`, or `cuda` for one GPU."""

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
            return TaskError(
                f"its worker was lost {ATTEMPTS} times ({type(error).__name__}); perhaps memory is too small"
            )


@contextmanager
def connected(address: str, processes: int = 1, device: str | None = None) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine, and disconnect at the end.

    Args:
        address: of a running cluster, such as `auto` or `ray://head:10001`, or `local`.
        processes: tasks at a time on a `local` cluster; a running cluster uses its resources.
        device: `cpu` or `cuda`; cuda if not given and the cluster has GPUs.

    Raises:
        InputError: Ray is not installed, the cluster does not answer, or it has no GPU although one is requested.
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
        raise InputError(f"device {wanted}: the Ray cluster has no GPU; use cpu")
    return "cpu" if wanted == "cpu" or not gpus else "cuda"  # which one, Ray decides


def _connect(address: str, cpus: int) -> Any:
    """The module of Ray, connected to a cluster."""
    try:
        import ray
    except ImportError as error:
        raise InputError("Ray is missing; install restain[ray], or use processes of this machine") from error
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray sends usage statistics
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
    """Check that HOST:PORT accepts connections; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
