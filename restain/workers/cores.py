"""How many cores this process may use, and how its threads wait for one another: decided before torch is loaded.

OpenMP's threads wait for one another many times in each step of a network. By default they wait awake, for about
20 ms, which is fastest on an idle machine; where other programs want the cores, a thread that waits awake keeps the one
it waits for from running. So they wait awake for a moment only, and then sleep. `benchmarks/load.py` compares lengths.
"""

import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path

SPINS = 30_000
"""How often a thread looks before it sleeps; some 2 ms. By itself OpenMP looks 300,000 times."""
_HOW_TO_WAIT = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"}


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell OpenMP how its threads wait and how many there are, unless the user has.

    To be called before torch is loaded; it does nothing afterwards. Processes that are started later inherit both.
    """
    if "torch" in sys.modules:
        return
    if not _HOW_TO_WAIT & environment.keys():
        environment["GOMP_SPINCOUNT"] = str(SPINS)
    if "OMP_NUM_THREADS" not in environment and usable_cores() < _allowed():
        environment["OMP_NUM_THREADS"] = str(usable_cores())  # otherwise torch finds the right number itself


def usable_cores() -> int:
    """Cores that this process may use: those it may run on, or fewer where its control group has less time."""
    return min(_allowed(), cgroup_limit() or sys.maxsize)


def cgroup_limit(root: Path = Path("/")) -> int | None:
    """How many cores' time the control groups of this process have, rounded down, at least 1; None without a limit.

    Args:
        root: of the file system; /proc and /sys lie there.
    """
    shares = [quota / period for quota, period in _quotas(root) if quota > 0 and period > 0]
    return max(1, int(min(shares))) if shares else None


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[tuple[int, int]]:
    """Time and the period that it is for, of each control group that this process is in, of version 1 and 2."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for group in _and_above(path):
            if not controllers:
                with suppress(OSError, ValueError):
                    quota, period = (root / "sys/fs/cgroup" / group / "cpu.max").read_text(encoding="utf-8").split()
                    yield int(quota), int(period)
            elif "cpu" in controllers.split(","):
                with suppress(OSError, ValueError):
                    place = root / "sys/fs/cgroup/cpu" / group
                    quota, period = ((place / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                    yield int(quota), int(period)


def _and_above(path: str) -> list[str]:
    """A group and those that it is in, down to the topmost; inside a container only that may be there."""
    parts = [part for part in path.split("/") if part]
    return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]
