"""The base class of methods: networks, their optimisers, and a step that reads like the paper's algorithm.

A method is composed, never inherited from another method. Its weights are its only state: everything that changes from
step to step (the pair, the optimisers, the progress) is an argument.
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
    """Progress of the training; with the seed it determines every random draw of a step."""

    seed: int
    step: int
    """Steps done so far, over all epochs; the first step sees 0."""
    steps: int
    """Steps of the whole training."""
    steps_per_epoch: int
    decay_left: float = 1.0
    """Share of the decay's epochs that remain: 1 until the second begins; 1.0, 0.9 … 0.1 for ten."""

    @property
    def epoch(self) -> float:
        """Epochs done so far, a fraction inside an epoch."""
        return self.step / self.steps_per_epoch

    def generator(self, *keys: int | str) -> torch.Generator:
        """A CPU generator for one purpose of this step, named by `keys`."""
        return derived_generator(self.seed, self.step, *keys)

    def image_generators(self, pair: Pair, *keys: int | str) -> list[torch.Generator]:
        """One generator per image, derived from its index in the data set, so that draws do not depend on the batch."""
        return [self.generator(*keys, index) for index in pair.index.tolist()]


@dataclass(frozen=True)
class AuxiliaryModel:
    """A model that must be trained before a method can start."""

    method: str
    """Name of the method that trains it."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Settings of that method."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the recipe's data settings."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the defaults of training settings."""


@dataclass(frozen=True)
class Needs:
    """Requirements of a step on its batches; other recipes are refused before the training begins."""

    images: int = 1
    """Fewest images in a batch of one process."""
    crop_px: int = 4
    """Shortest side of a crop or whole tile, px."""
    crop_multiple: int = 4
    """Sides of a crop or whole tile must be multiples of this, px."""
    nuclei: tuple[int, Literal["nuclear", "membrane"]] | None = None
    """Where a step learns the density of nuclei: their diameter, px, and where DAB lies on positive cells."""


class Method(nn.Module, ABC):
    """A method: the networks and the step of one paper."""

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]
    agreed: ClassVar[tuple[str, ...]] = ()
    """Settings in which a method that reads the product's features must agree; kept in the checkpoint."""
    reads_grades: ClassVar[bool] = False
    """Whether a step uses the grades of pairs, which are measured on every IHC image if names do not have them."""
    unpaired: ClassVar[bool] = False
    """Whether the IHC is only an example of the stain and may be drawn independently of the H&E."""

    @classmethod
    def auxiliary(cls, config: Any) -> dict[str, AuxiliaryModel]:
        """Auxiliary models to train first, by their argument of the constructor; none for most methods."""
        return {}

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Requirements of a step on its batches."""
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
        """The product of the training, which the final checkpoint contains."""

    @torch.no_grad()
    def sample(self, pair: Pair) -> dict[str, Tensor]:
        """Images to look at, N x 3 x H x W in [-1, 1], by column name in order.

        By default the H&E, the virtual IHC, and the neighbouring section's real IHC.
        """
        return {"H&E": pair.he, "virtual": self.product()(pair.he), "real neighbour": pair.ihc}


def adam(*modules: nn.Module, lr: float, betas: tuple[float, float] = (0.5, 0.999)) -> Adam:
    """Adam over the learnable weights of `modules`; beta1 = 0.5 is usual in adversarial training."""
    return Adam([weight for module in modules for weight in module.parameters()], lr=lr, betas=betas)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within the context the weights of `modules` get no gradient; gradients still flow through to their inputs."""
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
        optimizer.zero_grad(set_to_none=True)  # gradients are as large as the weights, and nobody needs them now


def processes() -> int:
    """Number of processes that share each batch."""
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
    """Losses for the log: detached, under `prefix/`."""
    return {f"{prefix}/{name}": term.detach() for name, term in terms.items()}
