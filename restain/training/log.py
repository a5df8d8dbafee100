"""The log of a run: losses and held-out figures as JSON lines and, if installed, in TensorBoard; and progress."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from restain.errors import OutputError
from restain.image import atomic_path
from restain.training.folder import HELD_OUT, LOSSES
from restain.training.ranks import Ranks
from restain.training.state import Pending, astray

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Log:
    """Keeps the losses of each step on the device and reads them together when a line is due.

    So steps do not synchronise with the device, and the exact step and term of a bad loss are still found.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        start: int,
        steps: int,
        ranks: Ranks,
        console: Console | None = None,
        pending: Pending = (),
    ) -> None:
        self.folder, self.start, self.steps, self.ranks = folder, start, steps, ranks
        self.waiting: list[tuple[int, Mapping[str, Tensor]]] = [
            (step, {term: torch.tensor(value, device=ranks.device) for term, value in losses.items()})
            for step, losses in pending
        ]
        self.since = time.monotonic()
        self.console = console if ranks.writes else None
        self.bar = _Bar(title, start, steps, self.console) if self.console and self.console.is_terminal else None
        self.title = title
        self.tensorboard: SummaryWriter | None = None
        self.closing = ExitStack()

    def __enter__(self) -> Self:
        if self.ranks.writes:
            for name in (LOSSES, HELD_OUT):
                keep_lines(self.folder / name, self.start)
            self.tensorboard = _tensorboard(self.folder / "tensorboard", self.start)
        if self.tensorboard:
            self.closing.callback(self.tensorboard.close)
        if self.bar:
            self.closing.enter_context(self.bar)
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.close()

    def add(self, steps_done: int, losses: Mapping[str, Tensor]) -> None:
        """Record the losses of a step without reading them from the device."""
        self.waiting.append((steps_done, losses))
        if self.bar:
            self.bar.update(self.bar.task, completed=steps_done)

    def pending(self) -> Pending:
        """The losses since the last line, for a run that stops between two lines."""
        return tuple((step, {term: value.item() for term, value in losses.items()}) for step, losses in self.waiting)

    def held_out(self, step: int, figures: Mapping[str, float | None], partner: str, pairs: int, key: str) -> None:
        """Write the figures on held-out pairs, and what identifies these.

        Raises:
            OutputError: the file cannot be written.
        """
        self._append(HELD_OUT, {"step": step, **figures, "pairs": pairs, "against": partner, "key": key})
        known = {name: value for name, value in figures.items() if value is not None}
        if self.tensorboard:
            for name, value in known.items():
                self.tensorboard.add_scalar(f"held_out/{name}", value, step)
        if self.console:
            words = "  ".join(f"{name} {value:.4g}" for name, value in known.items())
            self.console.print(f"{self.title}  {step}/{self.steps}  held out: {words}", soft_wrap=True, highlight=False)

    def write(self, epoch: float, rate_factor: float, saved: int) -> dict[str, float]:
        """Write the mean of each loss since the last call, over steps and over ranks.

        Args:
            epoch: epochs done.
            rate_factor: on the learning rates.
            saved: steps done in the state that was saved last, for the message.

        Raises:
            NonFiniteLossError: a loss was not finite; names the first such step and term.
        """
        names = [(step, term) for step, losses in self.waiting for term in losses]
        values = torch.stack([value.float() for _, losses in self.waiting for value in losses.values()])
        numbers = self.ranks.mean(values).tolist()
        history: dict[str, list[float]] = {}
        for (step, term), number in zip(names, numbers, strict=True):
            if not math.isfinite(number):
                raise astray(f"in step {step} the loss {term} is {number}", saved)
            history.setdefault(term, []).append(number)
        means = {term: float(f"{sum(series) / len(series):.6g}") for term, series in history.items()}
        if self.ranks.writes:
            self._write(self.waiting[-1][0], epoch, rate_factor, means)
        self.waiting = []
        return means

    def _write(self, step: int, epoch: float, rate_factor: float, means: Mapping[str, float]) -> None:
        self._append(LOSSES, {"step": step, "epoch": round(epoch, 4), "rate_factor": round(rate_factor, 6), **means})
        if self.tensorboard:
            for term, value in means.items():
                self.tensorboard.add_scalar(term, value, step)
            self.tensorboard.add_scalar("rate_factor", rate_factor, step)
        self._show(step, means)

    def _append(self, name: str, line: Mapping[str, object]) -> None:
        path = self.folder / name
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; check the disk") from error

    def _show(self, step: int, means: Mapping[str, float]) -> None:
        rate = len(self.waiting) / max(time.monotonic() - self.since, 1e-9)
        self.since = time.monotonic()
        losses = "  ".join(f"{term} {value:.4g}" for term, value in means.items())
        if self.bar:
            self.bar.losses = losses
            self.bar.update(self.bar.task, rate=_rate(rate))
        elif self.console:
            left = timedelta(seconds=round((self.steps - step) / rate))
            self.console.print(
                f"{self.title}  {step}/{self.steps}  {_rate(rate)}  {left} left  {losses}",
                soft_wrap=True,
                highlight=False,
            )


class _Bar(Progress):
    """A line of progress with the losses below."""

    def __init__(self, title: str, start: int, steps: int, console: Console) -> None:
        self.losses = ""
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.add_task(title, total=steps, completed=start, rate="")

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Padding(Text(self.losses, style="dim"), (0, 0, 0, 2))


def keep_lines(path: Path, steps_done: int) -> None:
    """Drop lines of a log after the state that training resumes from, and a truncated line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"] if line.endswith("\n") else math.inf
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        if not isinstance(step, int) or step > steps_done:
            break
        kept.append(line)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def _rate(steps_per_second: float) -> str:
    return f"{steps_per_second:.2f} steps/s" if steps_per_second >= 1 else f"{1 / steps_per_second:.1f} s/step"


def _tensorboard(folder: Path, start: int) -> "SummaryWriter | None":
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
