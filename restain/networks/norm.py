"""Statistics of instance norm that many tiles share, and generators with such statistics folded into their weights.

With instance norm a pixel depends on the whole input, so a tile alone gets other colours than as part of a larger
image. With fixed statistics a generator is a local function: each pixel depends only on its receptive field.
"""

import collections.abc
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from restain.errors import ShapeError
from restain.networks.blocks import ResidualBlock
from restain.networks.generator import Generator
from restain.networks.normalisation import BatchNorm, InstanceNorm
from restain.networks.published_test import check_local
from restain.networks.stainer import Stainer
from restain.tensors import raised

NormLayer = InstanceNorm | BatchNorm
ConvLayer = nn.Conv2d | nn.ConvTranspose2d
Slices = tuple[slice, slice]
"""Rows and columns of an image, in px."""
OnStep = Callable[[int, int], None]
"""Called with steps done and in all."""


@dataclass(frozen=True)
class Moments:
    """Mean and variance that normalise each channel of a layer."""

    mean: Tensor
    """C, float64, on the CPU."""
    variance: Tensor
    """C, float64, on the CPU; the population variance, divided by the count."""


NormStatistics = Mapping[str, Moments]
"""The moments of each instance norm of a generator, by the name of the layer."""


@torch.no_grad()
def joint_statistics(
    generator: Generator,
    tiles: Sequence[Tensor],
    inside: Sequence[Slices] | None = None,
    *,
    on_progress: OnStep | None = None,
) -> dict[str, Moments]:
    """Joint statistics over all tiles, as if they were one image.

    Mean and variance of each instance norm run over tiles, height and width, and the layers before it have already
    normalised so. (The mean of the statistics that tiles have alone is something else, and gives wrong colours.)

    All tiles go from norm to norm in step, one after the other. Between two norms each keeps its features only where
    they are small; before the second halving they are large, and a tile starts again from its pixels instead. So a
    tile takes at most width / 2 float32 per pixel, 122 MiB for a million pixels at width 64, plus one tile's full
    features; and the work is about 1.3 times that of staining the tiles.

    Args:
        generator: evaluated, not changed.
        tiles: N x 3 x H x W each, in [-1, 1]; sizes may differ, sides are multiples of the generator's.
        inside: what counts of each tile, rows and columns in such multiples; all of it, if not given. Near the edge of
            a tile, features are what padding made of them. Where all tiles of an image see the receptive radius of the
            generator around what counts, the statistics are those of the whole image in one piece.
        on_progress: called after each tile at each norm.

    Returns:
        Moments by the name of the layer; none for a generator without instance norm.

    Raises:
        ShapeError: there are no tiles.
    """
    if not tiles:
        raise ShapeError("statistics need at least one tile")
    inside = inside or [(slice(None), slice(None))] * len(tiles)
    device = next(generator.parameters()).device
    norms = instance_norms(generator)
    found: dict[nn.Module, Moments] = {}
    walks: list[Iterator[Tensor] | None] = [None] * len(tiles)
    with evaluating(generator):
        for passed, norm in enumerate(norms.values()):
            totals = _Totals()
            for index, (tile, region) in enumerate(zip(tiles, inside, strict=True)):
                walk = walks[index]
                ahead = 0 if walk else passed
                walk = walk or _walk(generator, tile.to(device, memory_format=torch.channels_last), found)
                features = next(islice(walk, ahead, None))
                rows, columns = (_at_scale(part, tile.shape[-1] // features.shape[-1]) for part in region)
                totals.add(features[..., rows, columns])
                is_small = features.numel() <= generator.config.width * tile.numel() // 6
                walks[index] = walk if is_small else None
                if on_progress:
                    on_progress(passed * len(tiles) + index + 1, len(norms) * len(tiles))
            found[norm] = totals.moments()
    return {name: found[norm] for name, norm in norms.items()}


@torch.no_grad()
def freeze(generator: Stainer, statistics: NormStatistics | None = None) -> Stainer:
    """Build the generator whose norms have fixed statistics, folded into the convolutions before them.

    It is a local function with less to compute: `norm = "none"`. Batch norms are folded with their own statistics. A
    U-Net is one already: one that is not being trained is given back as it is.

    Args:
        generator: not changed.
        statistics: of its instance norms; not needed for batch norm.

    Returns:
        A generator of the same type on the same device, in evaluation mode, without gradients.

    Raises:
        ShapeError: the statistics belong to a generator of another shape.
        InputError: it is to stain as in the published test, with the statistics of each image.
    """
    check_local(generator)
    statistics = statistics or {}
    check_statistics(generator, statistics)
    if not isinstance(generator, Generator):
        trained = generator.training or any(weight.requires_grad for weight in generator.parameters())
        return copy.deepcopy(generator).eval().requires_grad_(False) if trained else generator
    config = generator.config.model_copy(update={"norm": "none", "spectral_norm": False, "dropout": 0.0})
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and replaced at once
        frozen = Generator(config).to(next(generator.parameters()))
    with evaluating(generator):
        targets = (layer for layer in frozen.modules() if isinstance(layer, ConvLayer))
        for (source, norm, name), target in zip(_normalised_convolutions(generator), targets, strict=True):
            scale, shift = _scale_and_shift(norm, statistics.get(name))
            bias = 0.0 if source.bias is None else _exact(source.bias)
            across = (1, -1, 1, 1) if isinstance(source, nn.ConvTranspose2d) else (-1, 1, 1, 1)
            target.weight.copy_(_exact(source.weight) * scale.view(across))
            assert target.bias is not None
            target.bias.copy_(bias * scale + shift)
    for layer in frozen.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True  # nothing else needs what the convolution gave; a third less memory
    return frozen.eval().requires_grad_(False)


def check_statistics(generator: Stainer, statistics: NormStatistics) -> None:
    """Check that statistics fit a generator: the same instance norms, as many channels each.

    Raises:
        ShapeError: they do not.
    """
    expected = {name: norm.num_features for name, norm in instance_norms(generator).items()}
    given = {name: moments.mean.numel() for name, moments in statistics.items()}
    if expected != given:
        raise ShapeError(
            f"the statistics are of {len(given)} layers with {sum(given.values())} channels, the generator normalises "
            f"{len(expected)} with {sum(expected.values())}; take statistics that were made with this generator"
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within the context the module is in evaluation mode; afterwards each part has its own mode again."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def instance_norms(generator: Stainer) -> dict[str, InstanceNorm]:
    """The layers that need statistics, by name; none in a generator that is a local function already."""
    return {name: layer for name, layer in generator.named_modules() if isinstance(layer, InstanceNorm)}


def _walk(generator: Generator, x: Tensor, found: Mapping[nn.Module, Moments]) -> Iterator[Tensor]:
    """Run the network and halt before each instance norm, to show what arrives there.

    Before it continues, the moments of that norm must be in `found`.
    """
    held = [x]  # handed over, so that no stage's input outlives it while the walk halts
    del x
    for stage in generator.stages.values():
        if isinstance(stage, ResidualBlock):
            held[0] = held[0] + (yield from _walk_chain(stage.body, held[0], found))
        else:
            layers = stage if isinstance(stage, nn.Sequential) else [stage]
            held.append((yield from _walk_chain(layers, held.pop(), found)))


def _walk_chain(
    layers: Iterable[nn.Module], x: Tensor, found: Mapping[nn.Module, Moments]
) -> collections.abc.Generator[Tensor, None, Tensor]:
    for layer in layers:
        if isinstance(layer, InstanceNorm):
            yield x
            full = raised(x)  # rounded to half precision, they would change whole channels
            scale, shift = (part.to(full).view(-1, 1, 1) for part in _scale_and_shift(layer, found[layer]))
            x = torch.addcmul(shift, full, scale).to(x.dtype)
        else:
            x = layer(x)
    return x


def _at_scale(part: slice, scale: int) -> slice:
    """The same part of a side of features, a pixel of which is `scale` px wide."""
    start, stop = (None if edge is None else edge // scale for edge in (part.start, part.stop))
    return slice(start, stop)


class _Totals:
    """Joins means and variances of parts to those of the whole, in float64 (Chan, Golub & LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        """Sum of squared distances from the mean."""

    def add(self, features: Tensor) -> None:
        """Take in N x C x H x W."""
        dims = (0, 2, 3)
        values = features if features.dtype == torch.float64 else features.float()
        variance, mean = (_exact(part) for part in torch.var_mean(values, dims, correction=0))
        count = features.numel() // features.shape[1]
        total = self.count + count
        distance = mean - self.mean
        self.mean = self.mean + distance * (count / total)
        self.squares = self.squares + variance * count + distance.square() * (self.count * count / total)
        self.count = total

    def moments(self) -> Moments:
        return Moments(torch.as_tensor(self.mean), torch.as_tensor(self.squares / self.count))


def _normalised_convolutions(generator: Generator) -> list[tuple[ConvLayer, NormLayer | None, str]]:
    """Each convolution, the norm that directly follows it, if any, and that norm's name; in the order of the layers."""
    pairs: list[tuple[ConvLayer, NormLayer | None, str]] = []
    for name, layer in generator.named_modules():
        if isinstance(layer, ConvLayer):
            pairs.append((layer, None, ""))
        elif isinstance(layer, NormLayer):
            pairs[-1] = (pairs[-1][0], layer, name)
    return pairs


def _scale_and_shift(norm: NormLayer | None, moments: Moments | None) -> tuple[Tensor, Tensor]:
    """The norm with fixed moments as x * scale + shift, C each, float64."""
    if norm is None:
        return torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    if isinstance(norm, BatchNorm):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        moments = Moments(_exact(norm.running_mean), _exact(norm.running_var))
    assert moments is not None
    scale = (moments.variance + norm.eps).rsqrt()
    shift = -moments.mean * scale
    if isinstance(norm, InstanceNorm):
        return scale, shift
    return scale * _exact(norm.weight), shift * _exact(norm.weight) + _exact(norm.bias)


def _exact(values: Tensor) -> Tensor:
    """Float64 on the CPU; some devices have no such numbers."""
    return values.detach().cpu().double()
