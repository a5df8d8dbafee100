"""Progress of long work on the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bar(*, counted: bool = False) -> "Progress":
    """A bar on stderr between the description of the work and the time remaining.

    Args:
        counted: whether to show how many pieces are done, and how many there are.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = [MofNCompleteColumn()] if counted else []
    columns = (TextColumn("{task.description}"), BarColumn(), *count, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
