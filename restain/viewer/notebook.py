"""The page of the viewer in a notebook's cell."""

import atexit
import html
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from restain.models import find_model
from restain.viewer.listening import Server
from restain.viewer.opening import View, open_view


class NotebookView:
    """A running view; a notebook shows it as a frame."""

    def __init__(self, view: View, height_px: int) -> None:
        self._stack, self._height_px = ExitStack(), height_px
        self.notes: list[str] = []
        """What is worth knowing."""
        viewer = self._stack.enter_context(open_view(view, self.notes))
        server = Server(viewer, "127.0.0.1", 0, in_notebook=True)
        thread = server.start()
        self._stack.callback(thread.join)
        self._stack.callback(server.close)
        self.address = server.address
        """The page; open it in a window of its own where a frame is too small."""
        atexit.register(self.close)

    def close(self) -> None:
        """Stop serving; what was stained stays."""
        self._stack.close()
        atexit.unregister(self.close)

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{self._height_px}px;border:0"
        return f'<iframe src="{html.escape(self.address)}" style="{style}"></iframe>'


def show(
    slide: Path | str,
    model: Path | str | Sequence[Path | str] = (),
    *,
    ihc: Path | str | None = None,
    transform: Path | str | None = None,
    height_px: int = 640,
) -> NotebookView:
    """Look at a slide and its virtual stain in a notebook.

    Args:
        slide: the H&E.
        model: one or more checkpoints, or names of models of the package.
        ihc: the slide of the neighbouring section, really stained.
        transform: from the H&E to it.
        height_px: of the cell.

    Returns:
        The running view; the last line of a cell shows it. `close` stops it.

    Raises:
        RestainError: as in `open_view`.
    """
    models = [model] if isinstance(model, Path | str) else list(model)
    view = View(
        Path(slide),
        models=tuple(map(find_model, models)),
        ihc=Path(ihc) if ihc else None,
        transform=Path(transform) if transform else None,
    )
    return NotebookView(view, height_px)
