"""The training loop of every method and auxiliary model.

For each step: set the learning rates, run the method's step on the batch, record the losses; at intervals write the
    log, draw samples, save. Everything else (batch, rates, random draws) depends on the step number, so a resumed run
    equals an uninterrupted one.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.methods.base import Method, Progress
from restain.networks.convolution import take_fewer_multiplications
from restain.training.batches import Batches
from restain.training.config import Recipe
from restain.training.folder import MODEL, STATE
from restain.training.held_out import HeldOut
from restain.training.log import Log
from restain.training.numerics import compile_stages, computes_in_bfloat16, memory_format, step_numerics
from restain.training.products import Judge, save_product
from restain.training.ranks import Ranks
from restain.training.samples import save_samples
from restain.training.schedule import decay_left, rate_factor, set_rates
from restain.training.start import begun
from restain.training.state import Saved, check_finite, load_state, save_state
from restain.workers.interrupts import Postponed, postponed


def fit(
    method: Method,
    batches: Batches,
    recipe: Recipe,
    out: Path,
    ranks: Ranks,
    *,
    start: Path | None = None,
    held_out: HeldOut | None = None,
    shown: Pair | None = None,
    console: Console | None = None,
) -> None:
    """Train a method until its last step, from its saved state if `out` has one.

    On a signal to stop, a single process finishes its step and saves the state; on a second one it stops at once.

    Args:
        method: freshly built, from the recipe's seed.
        batches: the batches, step by step.
        recipe: every setting.
        out: the run's folder, for `losses.jsonl`, `held_out.jsonl`, `samples/`, `state.pt` and the checkpoints.
        ranks: this process among those of the training.
        start: the checkpoint whose weights to start from; ignored if `out` has a state.
        held_out: evaluation on held-out pairs, also for the best checkpoint; none if None.
        shown: pairs for the sample grids, if any.
        console: where to show progress, if not None.

    Raises:
        CheckpointError: the state is damaged, or no tensor in `start` fits.
        NonFiniteLossError: a loss or a weight is not finite; the last saved state is still valid.
        OutputError: a file could not be written.
    """
    config, device = recipe.training, ranks.device
    steps = config.total_steps(batches.per_epoch)
    layout = memory_format(config, device)
    bfloat16 = computes_in_bfloat16(config, device)

    method.to(device).train()
    method.to(memory_format=layout)  # type: ignore[call-overload]  # torch's annotation leaves this argument out
    take_fewer_multiplications(method)
    optimizers = method.optimizers()
    found = load_state(out / STATE, method, optimizers)
    saved = found or begun(method, start, steps, console)
    ranks.share(method)
    if found is None and saved.start and ranks.writes:  # from now on the initial checkpoint is not needed
        save_state(out / STATE, method, optimizers, saved)
    if config.compile:
        compile_stages(method)

    with (
        Log(out, out.name, saved.done, steps, ranks, console, saved.pending) as log,
        postponed() if ranks.count == 1 else nullcontext(Postponed()) as stop,
    ):
        judge = Judge(held_out, recipe, out, console) if held_out and ranks.writes else None
        for step, pair in batches.between(saved.done, steps):
            decay_steps = config.decay_steps(steps)
            factor = rate_factor(step, steps, decay_steps)
            set_rates(optimizers.values(), factor)
            left = decay_left(step, steps, decay_steps, config.decay_epochs)
            progress = Progress(recipe.seed, step, steps, batches.per_epoch, left)
            with step_numerics(device, bfloat16, recipe.seed, step, ranks.rank):
                losses = method.step(pair.to(device, layout), optimizers, progress)
            done = step + 1
            log.add(done, losses)

            saving = _due(done, steps, config.save_every_steps)
            if saving or _due(done, steps, config.log_every_steps):
                log.write(done / batches.per_epoch, factor, saved.done)
            if shown and ranks.writes and _due(done, steps, config.sample_every_steps):
                save_samples(out / "samples" / f"{done:06d}.png", method, shown.to(device, layout))
            if judge and _due(done, steps, config.evaluate_every_steps):
                judge.look(method, device, saved.at(done, steps), log)
            if saving or stop.asked:
                check_finite(method.state_dict(), done, saved.done)
                saved = saved.at(done, steps, log.pending())
                if ranks.writes:
                    _save(method, optimizers, recipe, out, saved)
            stop.answer()
    if ranks.writes and not (out / MODEL).is_file():
        _save(method, optimizers, recipe, out, saved)
    ranks.wait()


def _due(done: int, steps: int, every: int) -> bool:
    """Whether an event that occurs every so many steps, and after the last, is due; never if `every` is 0."""
    return every > 0 and (done % every == 0 or done == steps)


def _save(method: Method, optimizers: Mapping[str, Optimizer], recipe: Recipe, out: Path, saved: Saved) -> None:
    """Write the checkpoint, then the state, so that a finished state implies a finished checkpoint."""
    save_product(out / MODEL, method, recipe, saved)
    save_state(out / STATE, method, optimizers, saved)
