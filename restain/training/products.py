"""The checkpoints of a run: its product at the last saved state, and the one with the best held-out figure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from restain.checkpoint import read_info, save_checkpoint
from restain.methods.base import Method
from restain.training.config import Recipe
from restain.training.folder import BEST, HELD_OUT
from restain.training.held_out import HeldOut
from restain.training.log import Log
from restain.training.state import Saved


def save_product(
    path: Path, method: Method, recipe: Recipe, saved: Saved, extra: Mapping[str, Any] | None = None
) -> None:
    """Write the method's product to a checkpoint with its provenance.

    Raises:
        OutputError: it cannot be written; an earlier one stays.
    """
    data = recipe.data
    origin = saved.provenance | {"seed": recipe.seed} | {key: getattr(recipe.model, key) for key in method.agreed}
    save_checkpoint(
        path, method.product(), method=recipe.method, stain=data.stain, mpp=data.mpp, extra=origin | dict(extra or {})
    )


class Judge:
    """Evaluates held-out pairs during training, and keeps the best product."""

    def __init__(self, held_out: HeldOut, recipe: Recipe, out: Path, console: Console | None) -> None:
        """Restore the best figure from the log of a resumed run."""
        self.held_out, self.recipe, self.out, self.console = held_out, recipe, out, console
        self.best = self._best_so_far()

    def look(self, method: Method, device: torch.device, saved: Saved, log: Log) -> None:
        """Evaluate, and write the figures; if they are the best so far, write the checkpoint first.

        Raises:
            OutputError: a file cannot be written.
        """
        held_out = self.held_out
        figures = held_out.measure(method, device)
        if held_out.better(figures, self.best) and held_out.best_by:
            self.best = figures[held_out.best_by]
            said = {"best_by": held_out.best_by, held_out.best_by: self.best, "against": held_out.partner}
            save_product(self.out / BEST, method, self.recipe, saved, said)
        log.held_out(saved.done, figures, held_out.partner, len(held_out.chosen), held_out.key)

    def _best_so_far(self) -> float | None:
        """The best figure in the log on the same pairs, if the checkpoint that is kept was chosen by the same figure.

        A checkpoint of a later step than the last in the log is replaced when its step is repeated, since it is better
        than all before.
        """
        held_out, path = self.held_out, self.out / BEST
        if held_out.best_by is None or not path.is_file():
            return None
        if (kept := read_info(path).extra.get("best_by")) != held_out.best_by:
            if self.console:
                words = f"{path} is the best by {kept}; the best by {held_out.best_by} of later steps replaces it"
                self.console.print(words, soft_wrap=True, highlight=False, markup=False)
            return None
        best = None
        log = self.out / HELD_OUT
        lines = list(map(json.loads, log.read_text(encoding="utf-8").splitlines() if log.is_file() else ()))
        own = {"pairs": len(held_out.chosen), "against": held_out.partner, "key": held_out.key}
        same = [line for line in lines if all(line.get(name, value) == value for name, value in own.items())]
        for figures in same:
            if held_out.better(figures, best):
                best = figures[held_out.best_by]
        if lines and not same and self.console:
            words = f"{path} is the best on other held-out pairs; the best of later steps replaces it"
            self.console.print(words, soft_wrap=True, highlight=False, markup=False)
        return best
