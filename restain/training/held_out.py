"""Figures on held-out pairs during training, equal to those of `restain evaluate` on the same crops."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from restain.data.layouts import WHOLE
from restain.data.pairs import PairedTiles
from restain.errors import ConfigError, MissingError
from restain.image import to_tensor, to_uint8
from restain.methods.base import Method
from restain.metrics.distribution import kernel_distance
from restain.metrics.features import Extractor, FeatureMatrix, extractor_from_entry, inception
from restain.metrics.registry import METRICS
from restain.networks.norm import evaluating
from restain.randomness import generator
from restain.stains import to_unit
from restain.training.config import Recipe
from restain.training.folder import list_files
from restain.training.tiles import plain_pairs

Name = Literal["psnr", "dab_error", "positive_dice", "kid"]

MEASURED: tuple[Name, ...] = ("psnr", "dab_error", "positive_dice")
"""The metrics of `restain.metrics.registry.METRICS` that are measured pair by pair."""
_KID_SCALE = 1000
_DIGITS = 6
"""Significant digits of a figure; figures are compared as written, so that a resumed run takes the same decisions."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out pairs and the metrics to evaluate them with."""

    pairs: PairedTiles
    chosen: tuple[int, ...]
    """Indices in the data set, spread evenly."""
    partner: str
    """Description of what the virtual images are compared with."""
    extractor: Extractor | None
    best_by: Name | None

    def describe(self) -> str:
        """A description in one sentence."""
        kid = f", KID by {self.extractor.name or 'Inception v3'}" if self.extractor else "; no KID without an extractor"
        return f"held-out figures: {len(self.chosen)} of {len(self.pairs)} pairs, against {self.partner}{kid}"

    @property
    def key(self) -> str:
        """Identifies what the selected figure depends on besides the product; with another one it is not compared."""
        judge = (self.extractor.name, self.extractor.weights) if self.extractor and self.best_by == "kid" else ()
        parts = list_files(self.pairs.files[index] for index in self.chosen), self.partner, *judge
        return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def measure(self, method: Method, device: torch.device) -> dict[str, float | None]:
        """The figures of a method's product, one image at a time; the method is unchanged.

        Returns:
            By name; None if undefined, such as Dice if nothing is positive.
        """
        network = method.product()
        measured: dict[Name, list[Tensor]] = {name: [] for name in MEASURED}
        features = {side: FeatureMatrix(len(self.chosen)) for side in ("virtual", "real")}
        with evaluating(method), torch.no_grad():
            for index in self.chosen:
                virtual, real = self._images(network, index, device)
                for name in MEASURED:
                    measured[name].append(METRICS[name].measure(virtual, real).double())
                if self.extractor:
                    features["virtual"].add(self.extractor(virtual))
                    features["real"].add(self.extractor(real))
        figures: dict[str, float | None] = {name: _figure(name, torch.cat(values)) for name, values in measured.items()}
        if self.extractor:
            rows = features["virtual"].rows, features["real"].rows
            value = kernel_distance(*rows, 1, len(self.chosen), generator(0, "kid")).item()
            figures["kid"] = _rounded(_KID_SCALE * value)
        return figures

    def _images(self, network: nn.Module, index: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Virtual and real image in 8 bits, as saved; 1 x 3 x H x W in [0, 1], on the CPU."""
        pair = self.pairs.item(index, epoch=0)
        virtual = to_uint8(network(pair.he.to(device)))
        return to_unit(to_tensor(virtual)), to_unit(pair.ihc)

    def better(self, figures: Mapping[str, float | None], best: float | None) -> bool:
        """Whether the selected figure is better than the best so far."""
        value = figures.get(self.best_by) if self.best_by else None
        if value is None or best is None:
            return value is not None
        higher = self.best_by != "kid" and METRICS[self.best_by].higher_is_better if self.best_by else False
        return value > best if higher else value < best


def find_held_out(
    recipe: Recipe, root: Path, device: torch.device, extractor: tuple[str, Path] | None
) -> HeldOut | None:
    """Prepare the evaluation that `[training]` requests; None if there is none.

    Registered IHC in a folder beside the held-out IHC whose name ends in `_aligned` is used if there is one.

    Args:
        recipe: the recipe.
        root: the data set.
        device: of the extractor.
        extractor: the network for KID, as `extractor_from_entry` takes it; without it, Inception if its weights are in
            torch's cache.

    Raises:
        ConfigError: the data set has no held-out part, or KID is selected and there is no extractor.
        InputError, MissingError, CheckpointError: the pairs or the extractor cannot be used.
    """
    training = recipe.training
    if not training.evaluate_every_steps:
        return None
    pairs = plain_pairs(recipe, root, "val")
    if pairs.part in (WHOLE, "train"):
        raise ConfigError(
            f"evaluate_every_steps in [training] is {training.evaluate_every_steps}, but {root} has no held-out part; "
            "set it to 0, or move some pairs to a val part"
        )
    aligned = pairs.in_register()
    partner = f"registered IHC ({aligned.files[0].ihc.parent.name})" if aligned else "the neighbouring section's IHC"
    count = min(training.evaluate_pairs, len(pairs))
    judge = _extractor(extractor, device) if count > 1 else None
    if training.best_by == "kid" and judge is None:
        raise ConfigError(
            "best_by in [training] is 'kid', but there is no extractor, or only one held-out pair; "
            "name a network with its weights, or choose another figure"
        )
    chosen = tuple(place * len(pairs) // count for place in range(count))
    return HeldOut(aligned or pairs, chosen, partner, judge, training.best_by)


def _extractor(entry: tuple[str, Path] | None, device: torch.device) -> Extractor | None:
    if entry is not None:
        return extractor_from_entry(*entry, str(device))
    try:
        return inception(device=str(device))
    except MissingError:
        return None


def _figure(name: Name, values: Tensor) -> float | None:
    metric = METRICS[name]
    columns = values.unbind(1) if values.ndim == 2 else (values,)
    return _rounded(metric.figure(*columns).item())


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
