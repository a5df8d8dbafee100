"""The learning rate: constant, then linear decay to zero, the same for every optimiser."""

from collections.abc import Iterable

from torch.optim import Optimizer


def rate_factor(step: int, steps: int, decay_steps: int) -> float:
    """Factor of the base learning rate: 1, then a line that reaches 0 after the last step.

    The published recipes lower the rate once per epoch; here it falls with every step.
    """
    return min(1.0, (steps - step) / (decay_steps + 1))


def decay_left(step: int, steps: int, decay_steps: int, decay_epochs: int) -> float:
    """Share of the decay's epochs that remain: with ten of them 1 until the second, then 0.9, … 0.1."""
    into = max(0, step - (steps - decay_steps))
    return 1 - into * decay_epochs // decay_steps / decay_epochs if decay_steps else 1.0


def set_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times its initial value, which each parameter group stores."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
