"""What every method is: networks, their optimisers, and one step that reads like the paper's algorithm.

A method is composed, never inherited from another method. It keeps no state besides its weights: everything that
changes from step to step (the pair, the optimisers, where training stands) is an argument.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from restain.data.pairs import Pair
from restain.randomness import generator as derived_generator


class MethodConfig(BaseModel):
    """Settings of a method: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Progress:
    """Where training stands; together with the seed it determines every random draw of a step."""

    seed: int
    step: int
    """Steps done so far, over all epochs; the first step sees 0."""
    steps: int
    """Steps of the whole training."""
    steps_per_epoch: int
    decay_left: float = 1.0
    """Share of the decay's epochs that are not over yet: 1 until the second of them begins; 1.0, 0.9 … 0.1 for ten."""

    @property
    def epoch(self) -> float:
        """Epochs done so far, a fraction inside an epoch."""
        return self.step / self.steps_per_epoch

    def generator(self, *keys: int | str) -> torch.Generator:
        """A CPU generator for one purpose of this step, named by `keys`."""
        return derived_generator(self.seed, self.step, *keys)

    def image_generators(self, pair: Pair, *keys: int | str) -> list[torch.Generator]:
        """One generator per image, derived from its place in the data set: its draws do not depend on its batch."""
        return [self.generator(*keys, index) for index in pair.index.tolist()]


@dataclass(frozen=True)
class AuxiliaryModel:
    """A model that must be trained before a method can start."""

    method: str
    """Name of the method that trains it."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Settings of that method."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What to change in the recipe's data settings."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What to change in the training settings' defaults."""


@dataclass(frozen=True)
class Needs:
    """What a step asks of its batches; a recipe that does not give it is refused before anything runs."""

    images: int = 1
    """Least number of images together, in one process."""
    crop_px: int = 4
    """Least side of a crop, or of a tile that is taken whole, px."""
    crop_multiple: int = 4
    """What the sides of a crop, or of a tile that is taken whole, must be multiples of, px."""
    nuclei: tuple[int, Literal["nuclear", "membrane"]] | None = None
    """Where a step learns the density of nuclei: their diameter, px, and where DAB lies on positive cells."""


class Method(nn.Module, ABC):
    """One paper: its networks and its step."""

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]
    agreed: ClassVar[tuple[str, ...]] = ()
    """Settings in which a method that reads the product's features must agree; kept in the checkpoint."""
    reads_grades: ClassVar[bool] = False
    """Whether a step looks at the pairs' grades, which cost a look at every IHC image where names do not carry them."""
    unpaired: ClassVar[bool] = False
    """Whether the IHC serves only as an example of the stain and may be drawn independently of the H&E."""

    @classmethod
    def auxiliary(cls, config: Any) -> dict[str, AuxiliaryModel]:
        """Models to train first, by the name under which the constructor takes them; none for most methods."""
        return {}

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """What a step asks of its batches; little for most methods."""
        return Needs()

    def optimizers(self) -> dict[str, Optimizer]:
        """Fresh optimisers by name, each with its base learning rate; called once per run.

        By default Adam for each of the method's networks, under the network's name, at the rate `lr` of its settings.
        """
        lr: float = vars(self)["config"].lr
        return {name: adam(network, lr=lr) for name, network in self.named_children()}

    @abstractmethod
    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """Learn from one batch.

        Returns:
            Detached scalar losses, on the device; keys such as `generator/gan` are the log.
        """

    @abstractmethod
    def product(self) -> nn.Module:
        """The network that training is for; it is what the final checkpoint holds."""

    @torch.no_grad()
    def sample(self, pair: Pair) -> dict[str, Tensor]:
        """Images to look at, N x 3 x H x W in [-1, 1], by column name in order.

        By default the H&E, what the product makes of it, and the neighbouring section's real IHC.
        """
        return {"H&E": pair.he, "virtual": self.product()(pair.he), "real neighbour": pair.ihc}


def adam(*modules: nn.Module, lr: float, betas: tuple[float, float] = (0.5, 0.999)) -> Adam:
    """Adam over the learnable weights of `modules`; beta1 = 0.5 is the habit of adversarial training."""
    return Adam([weight for module in modules for weight in module.parameters()], lr=lr, betas=betas)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within the context the weights of `modules` take no gradient; gradients still flow through to their inputs."""
    weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def descend(loss: Tensor, *optimizers: Optimizer) -> None:
    """Zero the gradients, go backward, average the gradients over the ranks, step.

    Only the weights that the optimisers hold are averaged and moved. The backward pass runs outside autocast, as
    PyTorch advises.
    """
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    with torch.autocast(loss.device.type, enabled=False):
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships this method without annotations
    average_gradients(*optimizers)
    for optimizer in optimizers:
        optimizer.step()


def processes() -> int:
    """How many processes share each batch evenly."""
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if joined else 1


def batch_mean(values: Tensor) -> Tensor:
    """The mean over the whole batch, of which each process holds its share; it takes no gradient."""
    mean = values.detach().mean()
    if processes() > 1:
        torch.distributed.all_reduce(mean)
        mean /= processes()
    return mean


def batch_sum(values: Tensor) -> Tensor:
    """The sum over the whole batch, as far as gradients go, that are averaged over the processes: N values of each."""
    return values.sum() * processes()


def average_gradients(*optimizers: Optimizer) -> None:
    """Replace each gradient by its mean over the ranks, in one message; nothing to do in a single process."""
    if processes() == 1:
        return
    weights = [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= processes()
    means = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum of scalar terms."""
    return torch.stack(list(terms)).sum()


def detached(terms: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Losses as the log wants them: without gradient, under `prefix/`."""
    return {f"{prefix}/{name}": term.detach() for name, term in terms.items()}
