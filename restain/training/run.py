"""`train`: train a recipe on a folder of pairs, auxiliary models first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import ValidationError
from rich.console import Console
from torch import nn

from restain.data.nuclei import NuclearMaps
from restain.errors import ConfigError
from restain.methods import METHODS
from restain.methods.base import Method
from restain.networks.budget import OverBudgetError, within
from restain.networks.stainer import Stainer
from restain.randomness import derive_seed
from restain.training.auxiliary import auxiliary_folder, load_auxiliary, nuclei_folder
from restain.training.batches import Batches
from restain.training.config import Pretrained, Recipe
from restain.training.fit import fit
from restain.training.folder import MODEL, STATE, check_folder, claimed, describe_run, listing
from restain.training.held_out import HeldOut, find_held_out
from restain.training.ranks import Ranks, join
from restain.training.recipes import load_recipe
from restain.training.schedule import rate_factor
from restain.training.start import check_start
from restain.training.state import Saved, read_saved
from restain.training.tiles import at_scale, check_whole_tiles, plain_pairs, shown_pairs, training_pairs
from restain.workers.memory import total_bytes

USUAL_WEIGHTS = 100_000_000
"""Larger methods have their weights counted before they are built."""
BYTES_PER_WEIGHT = 16
"""Memory per weight: itself, its gradient, and Adam's two moments."""


def train(
    recipe: Recipe | Path | str,
    data: Path | str | None,
    out: Path | str,
    *,
    steps: int | None = None,
    start: Path | str | None = None,
    extractor: tuple[str, Path] | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Path:
    """Train a recipe, or resume an earlier call with the same arguments.

    Auxiliary models that the recipe does not name are trained in `auxiliary/` beside `out` and kept there for other
    runs. Under `torchrun`, the processes train together. A finished run with a greater length resumes from its last
    state, at the learning rate of the longer schedule.

    Args:
        recipe: a recipe, or the name or file of one.
        data: folder of the data set, whose training part is used; None for `root` in [data] of the recipe.
        out: folder of the run; created if missing.
        steps: length of the training in place of the recipe's.
        start: a checkpoint; tensors of the product with the same name and shape start from it. Resumed runs do not need
            it.
        extractor: the network for KID on held-out pairs, as entry `module:attribute` and weight file; without it,
            Inception if its weights are in torch's cache.
        device: `cpu`, `cuda`, or `auto` for a GPU if there is one.
        console: where to show progress, if not None.

    Returns:
        The checkpoint of the trained network.

    Raises:
        ConfigError: the recipe is wrong, or does not fit the data.
        InputError: the data cannot be used.
        CheckpointError: `start` or an auxiliary model is damaged, or does not fit.
        OutputError: `out` is not this run, or cannot be written.
        NonFiniteLossError: training diverged; names step, term and the last valid state.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if steps is not None:
        recipe = recipe.with_steps(steps)
    data = data or recipe.data.root
    if data is None:
        raise ConfigError("no pairs to learn from: give their folder or CSV file, or name it as root in [data]")
    ranks = join(device)
    if recipe.data.batch_size % ranks.count:
        raise ConfigError(
            f"batch_size in [data] is {recipe.data.batch_size}, which {ranks.count} processes cannot share evenly; "
            f"use a multiple, as in data.batch_size={ranks.count}"
        )
    least = METHODS[recipe.method].needs(recipe.model).images
    if recipe.data.batch_size // ranks.count < least:
        raise ConfigError(
            f"batch_size in [data] is {recipe.data.batch_size}, so that each of {ranks.count} processes gets "
            f"{recipe.data.batch_size // ranks.count}, but {recipe.method} compares the images of a batch; "
            f"use at least {least * ranks.count}, as in data.batch_size={least * ranks.count}"
        )
    run = Run(Path(data), ranks, console if ranks.writes else None, extractor)
    with _lack_of_memory_said(ranks.device):
        return run.train(recipe, Path(out), Path(start) if start else None)


@contextmanager
def _lack_of_memory_said(device: torch.device) -> Iterator[None]:
    """Raise PyTorch's out-of-memory errors as restain errors; on a CPU they have no type of their own."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not lacking:
            raise
        raise ConfigError(
            f"{device} has too little memory for a step with these settings; choose a smaller crop_px or "
            "batch_size in [data], or a smaller width in [model]"
        ) from error


def build(recipe: Recipe, auxiliary: Mapping[str, nn.Module]) -> Method:
    """The recipe's method, with weights drawn from its seed.

    PyTorch's initialisers take no generator, so the global one is seeded and restored.

    Raises:
        ConfigError: its networks do not fit in memory, or cannot be built with these settings.
    """
    memory = total_bytes()
    most = memory // BYTES_PER_WEIGHT
    try:
        try:
            with within(min(most, USUAL_WEIGHTS)):
                return _built(recipe, auxiliary)
        except OverBudgetError:
            with torch.device("meta"), within(most):  # counts without allocating memory, but slowly
                _built(recipe, auxiliary)
            return _built(recipe, auxiliary)
    except OverBudgetError as error:
        raise ConfigError(
            f"{recipe.method} with these settings of [model] cannot be trained here: {error}, and each takes "
            f"{BYTES_PER_WEIGHT} bytes of the {memory / 2**30:,.1f} GiB of memory; choose a smaller width"
        ) from error
    except ValidationError as error:
        reason = error.errors()[0]
        raise ConfigError(
            f"{recipe.method} with these settings of [model] cannot be built: {reason['loc'][-1]}: {reason['msg']}"
        ) from error


def _built(recipe: Recipe, auxiliary: Mapping[str, nn.Module]) -> Method:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(recipe.seed, "weights"))
        return METHODS[recipe.method](recipe.model, **auxiliary)


def auxiliary_runs(recipe: Recipe, data: Path | str, out: Path | str) -> dict[Path, Recipe]:
    """The auxiliary models that `train(recipe, data, out)` trains first: folder and recipe of each.

    Raises:
        MissingError, InputError: the data cannot be used.
    """
    pairs = plain_pairs(recipe, Path(data), "train")
    check_whole_tiles(pairs, recipe)
    listed = listing(pairs)
    return {
        auxiliary_folder(name, choice, listed, Path(out)): choice
        for name, choice in recipe.auxiliary.items()
        if isinstance(choice, Recipe)
    }


@dataclass(frozen=True)
class Run:
    """Arguments that a training shares with those of its auxiliary models."""

    root: Path
    ranks: Ranks
    console: Console | None
    extractor: tuple[str, Path] | None = None

    def train(self, recipe: Recipe, out: Path, start: Path | None = None, *, shared: bool = False) -> Path:
        """Train one recipe in one folder; used for auxiliary models too.

        Args:
            recipe: what to train.
            out: the folder.
            start: a checkpoint to start from.
            shared: whether other runs may need the same model, so that a process that trains it is waited for.
        """
        pairs = training_pairs(recipe, self.root)
        check_whole_tiles(pairs, recipe)
        batches = Batches(pairs, recipe.data, recipe.seed, self.ranks)
        steps = recipe.training.total_steps(batches.per_epoch)
        listed = listing(pairs)
        saved = self._check(recipe, out, listed, steps, start)
        self.ranks.wait()  # every process checks before the first one writes
        if self._is_finished(saved, out, steps):
            return out / MODEL
        self._tell(pairs.describe())
        held_out = self._held_out(recipe)
        waiting = partial(self._tell, f"waiting for another process, which trains {out.name}") if shared else None
        with claimed(out, waiting) if self.ranks.writes else nullcontext():
            saved = self._check(recipe, out, listed, steps, start)  # another process may have trained it meanwhile
            if self.ranks.count == 1 and self._is_finished(saved, out, steps):
                return out / MODEL
            if saved.finished and saved.done:
                self._tell(_lengthened(out, recipe, saved, steps))
            if self.ranks.writes:
                describe_run(out, recipe, listed)
            if nuclei := METHODS[recipe.method].needs(recipe.model).nuclei:
                pairs.nuclei = NuclearMaps(nuclei_folder(nuclei, listed, out), *nuclei)
                self._tell(f"densities of nuclei are stored in {pairs.nuclei.folder} when a tile is first read")
            method = build(recipe, self._auxiliary(recipe, out, listed))
            if held_out and not isinstance(method.product(), Stainer):
                raise ConfigError(
                    f"{recipe.method} has no virtual IHC to evaluate; remove evaluate_every_steps from [training]"
                )
            draws = self.ranks.writes and recipe.training.sample_every_steps
            shown = shown_pairs(recipe, self.root) if draws else None
            fit(
                method,
                batches,
                at_scale(recipe, pairs.scale),
                out,
                self.ranks,
                start=start,
                held_out=held_out,
                shown=shown,
                console=self.console,
            )
        return out / MODEL

    def _check(self, recipe: Recipe, out: Path, listed: str, steps: int, start: Path | None) -> Saved:
        saved = read_saved(out / STATE)
        check_folder(out, recipe, listed, steps, saved)
        if (out / STATE).is_file():
            check_start(out, saved, start)
        return saved

    def _is_finished(self, saved: Saved, out: Path, steps: int) -> bool:
        finished = saved.done == steps and (out / MODEL).is_file()
        if finished:
            self._tell(f"{out} is finished: {steps:,} steps")
        return finished

    def _held_out(self, recipe: Recipe) -> HeldOut | None:
        held_out = find_held_out(recipe, self.root, self.ranks.device, self.extractor) if self.ranks.writes else None
        if held_out:
            check_whole_tiles(held_out.pairs, recipe)
            self._tell(held_out.describe())
        return held_out

    def _auxiliary(self, recipe: Recipe, out: Path, listed: str) -> dict[str, nn.Module]:
        """The auxiliary models of the method, trained now or before."""
        proposals = METHODS[recipe.method].auxiliary(recipe.model)
        models = {}
        for name, choice in recipe.auxiliary.items():
            if isinstance(choice, Pretrained):
                path = choice.checkpoint
            else:
                path = self.train(choice, auxiliary_folder(name, choice, listed, out), shared=True)
            models[name] = load_auxiliary(name, proposals[name], path)
        return models

    def _tell(self, words: str) -> None:
        if self.console:
            self.console.print(words, soft_wrap=True, highlight=False, markup=False)


def _lengthened(out: Path, recipe: Recipe, saved: Saved, steps: int) -> str:
    """Describe the learning rate of a finished run that is lengthened."""
    decay = recipe.training.decay_steps(steps)
    factor = rate_factor(saved.done, steps, decay)
    return (
        f"{out} was finished after {saved.done:,} steps and is lengthened to {steps:,}. The learning rate resumes at "
        f"{factor:.3g} times its base value, as the longer schedule has it, and falls linearly to zero over the last "
        f"{decay:,} steps"
    )
