"""Units of work of a bench, several at a time in separate processes; one that fails does not stop the others."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console

from restain.workers.pool import Pool


@dataclass(frozen=True)
class Unit:
    """Work for a separate process."""

    words: str
    work: Callable[..., None]
    """Called with `arguments` and a console, or None to show nothing."""
    arguments: tuple[object, ...]
    needs: tuple[str, ...] = ()
    """Names of units that must be done before."""


@dataclass
class UnitProgress:
    """Shows which unit begins or ends, and the estimated time remaining."""

    console: Console | None
    total: int
    done: int = 0
    start: float = field(default_factory=time.monotonic)

    def begins(self, unit: Unit) -> None:
        """Announce a unit."""
        self._say(f"[{self.done + 1}/{self.total}] {unit.words}{self._left()}")

    def ends(self, unit: Unit, failure: str | None) -> None:
        """Count a unit."""
        self.done += 1
        if failure:
            self._say(f"{unit.words} failed: {failure}")

    def stands(self) -> None:
        """Show progress for units whose beginning is not known."""
        self._say(f"{self.done} of {self.total} done{self._left()}")

    def _left(self) -> str:
        if self.done in (0, self.total):
            return ""
        seconds = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        return f", about {timedelta(seconds=round(seconds))} left"

    def _say(self, words: str) -> None:
        if self.console:
            self.console.print(words, soft_wrap=True, highlight=False, markup=False)


def without_unmet(units: Sequence[Unit], failures: dict[str, str], progress: UnitProgress) -> list[Unit]:
    """Skip units that depend on a failed one.

    Args:
        units: the next units.
        failures: why earlier units failed, by name; skipped units are added.
        progress: shows skipped units.

    Returns:
        The others.
    """
    able = []
    for unit in units:
        unmet = next((words for words in unit.needs if words in failures), None)
        if unmet is None:
            able.append(unit)
        else:
            failures[unit.words] = f"not begun, because {unmet} failed"
            progress.ends(unit, failures[unit.words])
    return able


def run_units(units: Sequence[Unit], pool: Pool, progress: UnitProgress, *, show: bool = False) -> dict[str, str]:
    """Do all units, as many at a time as the pool allows, each in a separate process.

    Args:
        units: in the order in which they begin.
        pool: where; on a cluster every machine sees the same files.
        progress: shows each.
        show: whether units show their own progress, if only one is done at a time.

    Returns:
        Why units failed, by name; empty if all succeeded.
    """
    failures = dict[str, str]()
    begun = set[int]()

    def begins(index: int) -> None:
        begun.add(index)
        progress.begins(units[index])

    for index, failed in pool.each(_do, [(unit, show) for unit in units], fresh=True, on_begin=begins):
        failure = str(failed) if failed else None
        progress.ends(units[index], failure)
        if index not in begun:
            progress.stands()
        if failure:
            failures[units[index].words] = failure
    return failures


def _do(unit: Unit, show: bool) -> None:
    """In a process of its own."""
    unit.work(*unit.arguments, Console(stderr=True) if show else None)
