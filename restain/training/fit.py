"""The training loop, the only one: every method and every auxiliary model learns here.

For each step: set the learning rates, let the method learn from the batch, remember the losses; now and then write the
log, draw samples, save. The step number decides everything else (batch, rates, random draws), so a resumed run goes on
as if nothing had been.
"""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from torch.optim import Optimizer

from restain.checkpoint import save_checkpoint
from restain.data.pairs import Pair
from restain.methods.base import Method, Progress
from restain.training.batches import Batches
from restain.training.config import Recipe
from restain.training.folder import MODEL, STATE
from restain.training.log import Log
from restain.training.numerics import compile_stages, computes_in_bfloat16, memory_format, step_numerics
from restain.training.ranks import Ranks
from restain.training.samples import save_samples
from restain.training.schedule import rate_factor, set_rates
from restain.training.state import check_finite, load_state, save_state


def fit(
    method: Method,
    batches: Batches,
    recipe: Recipe,
    out: Path,
    ranks: Ranks,
    *,
    shown: Pair | None = None,
    console: Console | None = None,
) -> None:
    """Train a method until its last step, from its saved state if `out` has one.

    Args:
        method: freshly built, from the recipe's seed.
        batches: what to learn from, step by step.
        recipe: every setting.
        out: the run's folder; gets `losses.jsonl`, `samples/`, `state.pt` and `model.safetensors`.
        ranks: this process among those that train together.
        shown: pairs for the sample grids; none are drawn without.
        console: where progress is shown; nowhere if None.

    Raises:
        NonFiniteLossError: a loss or a weight became infinite or not a number; the state saved last is still good.
        OutputError: something could not be written.
    """
    config, device = recipe.training, ranks.device
    steps = config.total_steps(batches.per_epoch)
    layout = memory_format(config, device)
    bfloat16 = computes_in_bfloat16(config, device)

    method.to(device).train()
    method.to(memory_format=layout)  # type: ignore[call-overload]  # torch's annotation leaves this argument out
    optimizers = method.optimizers()
    saved = load_state(out / STATE, method, optimizers)
    ranks.share(method)
    if config.compile:
        compile_stages(method)

    with Log(out, out.name, saved, steps, ranks, console) as log:
        for step, pair in batches.between(saved, steps):
            factor = rate_factor(step, steps, config.decay_steps(steps))
            set_rates(optimizers.values(), factor)
            progress = Progress(recipe.seed, step, steps, batches.per_epoch, factor)
            with step_numerics(device, bfloat16, recipe.seed, step, ranks.rank):
                losses = method.step(pair.to(device, layout), optimizers, progress)
            done = step + 1
            log.add(done, losses)

            saving = _due(done, steps, config.save_every_steps)
            if saving or _due(done, steps, config.log_every_steps):
                log.write(done / batches.per_epoch, factor, saved)
            if shown and ranks.writes and _due(done, steps, config.sample_every_steps):
                save_samples(out / "samples" / f"{done:06d}.png", method, shown.to(device, layout))
            if saving:
                check_finite(method.state_dict(), done, saved)
                if ranks.writes:
                    _save(method, optimizers, recipe, out, done)
                saved = done
    if ranks.writes and not (out / MODEL).is_file():
        _save(method, optimizers, recipe, out, saved)
    ranks.wait()


def _due(done: int, steps: int, every: int) -> bool:
    """Whether something that happens every so many steps, and after the last, is due; never if `every` is 0."""
    return every > 0 and (done % every == 0 or done == steps)


def _save(method: Method, optimizers: Mapping[str, Optimizer], recipe: Recipe, out: Path, done: int) -> None:
    """Write the checkpoint, then the state: where the state says that the run is finished, the checkpoint is too."""
    data = recipe.data
    extra = {"steps": done, "seed": recipe.seed} | {key: getattr(recipe.model, key) for key in method.agreed}
    save_checkpoint(out / MODEL, method.product(), method=recipe.method, stain=data.stain, mpp=data.mpp, extra=extra)
    save_state(out / STATE, method, optimizers, done)
