"""The learning rate over time: constant, then linearly down to nothing, for every optimiser alike."""

from collections.abc import Iterable

from torch.optim import Optimizer


def rate_factor(step: int, steps: int, decay_steps: int) -> float:
    """What to multiply the base learning rate by: 1, then a straight line that would meet 0 after the last step.

    The published recipes lower the rate once per epoch; here it falls a little with every step.
    """
    return min(1.0, (steps - step) / (decay_steps + 1))


def decay_left(step: int, steps: int, decay_steps: int, decay_epochs: int) -> float:
    """The share of the decay's epochs that are not over yet: with ten of them 1 until their second, 0.9, … 0.1."""
    into = max(0, step - (steps - decay_steps))
    return 1 - into * decay_epochs // decay_steps / decay_epochs if decay_steps else 1.0


def set_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times what it was at first, which each parameter group remembers."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
