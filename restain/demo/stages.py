"""What has been done, and how long it took: a stage that is finished is not done again."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from restain.errors import OutputError
from restain.image import atomic_path, is_unfinished

Made = TypeVar("Made")
Tell = Callable[[int, int], None]
"""Called with how much is done and how much there is."""


@dataclass(frozen=True)
class Stage:
    """One step of the way."""

    words: str
    """What it does."""
    command: str
    """The same on the command line; empty where there is no command for it."""
    seconds: float = 0.0
    """How long it took, over all attempts that ended by themselves."""


class Journal:
    """The stages of one demo, kept in `stages.json` beside its results."""

    def __init__(self, out: Path, seed: int, console: Console | None = None) -> None:
        """Take up the demo in `out`, or begin one.

        Raises:
            OutputError: `out` holds something else, or a demo with another seed or of another version, or cannot be
                written.
        """
        self.path, self.seed, self.console = out / "stages.json", seed, console or Console(quiet=True)
        self.stages: list[Stage] = []
        self.seconds: dict[str, float] = {}
        self.done: set[str] = set()
        if self.path.is_file():
            self._read()
        elif out.exists() and (not out.is_dir() or not all(map(is_unfinished, out.iterdir()))):
            raise OutputError(f"{out} is not empty and holds no demo; give a new or empty folder")
        else:
            self._write()  # so that a demo stopped in its first stage is known

    def once(self, words: str, command: str, work: Callable[[Tell], object]) -> None:
        """Do the work unless it was done before; the words are the stage's name."""
        if words not in self.done:
            start = time.monotonic()
            try:
                self._shown(words, work)
                self.done.add(words)
            finally:
                self.seconds[words] = self.seconds.get(words, 0.0) + time.monotonic() - start
                self._write()
        self.stages.append(Stage(words, command, self.seconds[words]))

    def always(self, words: str, command: str, work: Callable[[Tell], Made]) -> Made:
        """Do work that takes seconds, whose result is needed each time; the time shown is this time's."""
        start = time.monotonic()
        result = self._shown(words, work)
        self.stages.append(Stage(words, command, time.monotonic() - start))
        return result

    def _shown(self, words: str, work: Callable[[Tell], Made]) -> Made:
        """Work under its name and a bar, which appears with the first that is done and leaves with the last."""
        self.console.print(f"[bold]{words}[/bold]", highlight=False)
        bar: list[Progress] = []

        def tell(done: int, total: int) -> None:
            if not bar:
                columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                bar.append(Progress(TextColumn("  "), *columns, console=self.console, transient=True))
                bar[0].add_task("", total=total)
                bar[0].start()
            bar[0].update(bar[0].task_ids[0], completed=done, total=total)

        try:
            return work(tell)
        finally:
            if bar:
                bar[0].stop()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            seed, self.done, self.seconds = content["seed"], set(content["done"]), dict(content["seconds"])
            made_by = content.get("restain", version("restain"))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise OutputError(f"{self.path} cannot be read; give a new folder, or remove this one") from error
        if seed != self.seed:
            raise OutputError(f"{self.path.parent} holds the demo of seed {seed}; give another folder, or that seed")
        if made_by != version("restain"):
            raise OutputError(
                f"{self.path.parent} holds a demo of restain {made_by}, and this is {version('restain')}; give another "
                "folder"
            )

    def _write(self) -> None:
        content = {"restain": version("restain"), "seed": self.seed, "done": sorted(self.done), "seconds": self.seconds}
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
