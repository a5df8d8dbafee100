"""Every operator on the way of a gradient, against finite differences: memory order × batch × type.

PyTorch 2.13's batch norm and instance norm fail these tests; `restain.networks.normalisation` does not.
"""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.networks.blocks import BlurDown, BlurUp, ReflectionPad
from restain.networks.normalisation import BatchNorm, InstanceNorm, instance_norm

Operator = Callable[[Tensor], Tensor]

DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]

CHANNELS, HEIGHT, WIDTH = 4, 5, 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def distinct(batch: int) -> Tensor:
    """Numbers that all differ and that bfloat16 holds exactly, so that no maximum is shared."""
    count = batch * CHANNELS * HEIGHT * WIDTH
    order = torch.randperm(count, generator=torch.Generator().manual_seed(batch))
    return ((order - count / 2) / 64).double().view(batch, CHANNELS, HEIGHT, WIDTH)


def batch_norm(x: Tensor, *, training: bool) -> Tensor:
    layer = BatchNorm(CHANNELS).train(training)
    spread = torch.linspace(0.5, 2, CHANNELS)
    layer.running_mean, layer.running_var = spread - 1, spread.clone()
    nn.init.normal_(layer.weight, 1.0, 0.5, generator=torch.Generator().manual_seed(0))
    layer.requires_grad_(False)
    normalised: Tensor = layer.to(x.device, torch.float32 if x.dtype == torch.bfloat16 else x.dtype)(x)
    return normalised


def warped(x: Tensor, padding: str, corners: bool) -> Tensor:
    places = (drawn(len(x), 4, 5, 2) * 24).round() / 32
    return F.grid_sample(x, places.to(x), padding_mode=padding, align_corners=corners)


def convolved(x: Tensor, *, transposed: bool, groups: int = 1, stride: int = 1) -> Tensor:
    weight = ((drawn(CHANNELS, CHANNELS // groups, 3, 3) * 16).round() / 16).to(x)
    if transposed:
        return F.conv_transpose2d(x, weight, stride=stride, padding=1, output_padding=stride - 1, groups=groups)
    return F.conv2d(x, weight, stride=stride, padding=1, groups=groups)


OPERATORS: dict[str, Operator] = {
    "instance norm": instance_norm,
    "batch norm, training": lambda x: batch_norm(x, training=True),
    "batch norm, evaluated": lambda x: batch_norm(x, training=False),
    "convolution": lambda x: convolved(x, transposed=False),
    "convolution, stride 2": lambda x: convolved(x, transposed=False, stride=2),
    "convolution, by channel": lambda x: convolved(x, transposed=False, groups=CHANNELS, stride=2),
    "transposed convolution": lambda x: convolved(x, transposed=True, stride=2),
    "reflection pad": ReflectionPad(2),
    "reflection pad of F": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "replicate pad": lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"),
    "zero pad": lambda x: F.pad(x, (1, 2, 2, 1)),
    "blur down": lambda x: BlurDown().to(x.device)(x),
    "blur up": BlurUp(),
    "bilinear": lambda x: F.interpolate(x, size=(9, 7), mode="bilinear", align_corners=False),
    "bilinear, corners": lambda x: F.interpolate(x, size=(9, 7), mode="bilinear", align_corners=True),
    "bilinear, smaller": lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", align_corners=False),
    "bicubic": lambda x: F.interpolate(x, size=(9, 7), mode="bicubic", align_corners=True),
    "area": lambda x: F.interpolate(x, size=(2, 3), mode="area"),
    "grid sample": lambda x: warped(x, "zeros", False),
    "grid sample, reflected": lambda x: warped(x, "reflection", False),
    "grid sample, corners": lambda x: warped(x, "border", True),
    "max pool": lambda x: F.max_pool2d(x, 2),
    "max pool, overlapping": lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
    "average pool": lambda x: F.avg_pool2d(x, 2),
    "average pool, overlapping": lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
    "global average": lambda x: F.adaptive_avg_pool2d(x, 1),
    "unit length": lambda x: F.normalize(x, dim=1),
    "leaky ReLU": lambda x: F.leaky_relu(x + 1 / 128, 0.2),
    "ELU": lambda x: F.elu(x + 1 / 128),
    "tanh": torch.tanh,
}

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 4e-2}


def finite_differences(operator: Operator, x: Tensor, weights: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of (operator(x) * weights).sum(), one number of x at a time, to fourth order in the step."""
    gradient = torch.empty_like(x)
    for place in itertools.product(*map(range, x.shape)):

        def moved(distance: float, place: tuple[int, ...] = place) -> Tensor:
            shifted = x.clone()
            shifted[place] += distance
            return (operator(shifted) * weights).sum()

        near, far = moved(step) - moved(-step), moved(2 * step) - moved(-2 * step)
        gradient[place] = (8 * near - far) / (12 * step)
    return gradient


def layouts(x: Tensor) -> list[Tensor]:
    """The same numbers in every order: as usual, channels last, channels last seen through a view, rows last."""
    if x.ndim != 4:
        return [x]
    last = x.clone(memory_format=torch.channels_last)
    transposed = x.mT.contiguous().mT
    return [x.contiguous(), last, last.view(x.shape), transposed]


@pytest.fixture(scope="module")
def slow() -> Callable[[str, int], tuple[Tensor, Tensor, Tensor]]:
    """Input, weights on the output, and the gradient by finite differences; computed once per operator and batch."""
    known: dict[tuple[str, int], tuple[Tensor, Tensor, Tensor]] = {}

    def find(name: str, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        if (name, batch) not in known:
            x = distinct(batch)
            weights = drawn(*OPERATORS[name](x).shape, seed=1).bfloat16().double()
            known[name, batch] = x, weights, finite_differences(OPERATORS[name], x, weights)
        return known[name, batch]

    return find


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_gradient_is_that_of_finite_differences_in_every_memory_order(
    name: str, batch: int, dtype: torch.dtype, device: str, slow: Callable[[str, int], tuple[Tensor, Tensor, Tensor]]
) -> None:
    x, weights, expected = (numbers.to(device) for numbers in slow(name, batch))
    for given, above in itertools.product(layouts(x.to(dtype)), layouts(weights.to(dtype))):
        given.requires_grad_(True)
        (gradient,) = torch.autograd.grad(OPERATORS[name](given), given, above)
        error = (gradient.double() - expected).norm() / expected.norm()
        assert error < TOLERANCE[dtype], f"x {given.stride()}, gradient {above.stride()}: {error:.1e}"


def by_definition(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Explicit mean and variance of each channel of each image."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mean", [0, 30])
def test_instance_norm_is_its_definition(mean: float, batch: int, dtype: torch.dtype, device: str) -> None:
    """Also far from zero, where PyTorch's group norm loses three digits in channels-last order."""
    x, above = drawn(batch, 6, 24, 20).to(device) + mean, drawn(batch, 6, 24, 20, seed=1).to(device)
    x, above = x.to(dtype), above.to(dtype)
    exact = x.double().requires_grad_()
    expected = by_definition(exact)
    (slope,) = torch.autograd.grad(expected, exact, above.double())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4 if mean else 2e-6, torch.bfloat16: 5e-3}[dtype]
    for given, gradient_above in itertools.product(layouts(x), layouts(above)):
        given.requires_grad_(True)
        normalised = InstanceNorm(6)(given)
        (gradient,) = torch.autograd.grad(normalised, given, gradient_above)
        assert normalised.dtype == gradient.dtype == dtype
        for found, wanted in ((normalised, expected), (gradient, slope)):
            assert (found.double() - wanted).norm() / wanted.norm() < tolerance


@pytest.mark.parametrize("batch", [1, 2])
def test_channels_last_stays_channels_last(batch: int) -> None:
    x = drawn(batch, 6, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    normalised = instance_norm(x)
    (gradient,) = torch.autograd.grad(normalised, x, drawn(batch, 6, 8, 8))
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_a_single_pixel_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"more than one pixel.* 2 × 6 × 1 × 1"):
        instance_norm(torch.zeros(2, 6, 1, 1))


def test_batch_norm_moves_its_running_statistics_as_pytorch_does() -> None:
    ours, theirs = BatchNorm(6).double(), nn.BatchNorm2d(6).double()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for x in layouts(drawn(2, 6, 8, 8)):
        assert_close(ours(x), theirs(x))
    assert_close(ours.state_dict(), theirs.state_dict())


def test_no_network_uses_a_norm_of_pytorch(project: Path) -> None:
    plain = re.compile(r"\b(?:nn\.(?:Instance|Batch)Norm\dd|(?:F|torch|functional)\.(?:instance|batch)_norm)\b")
    own = project / "restain" / "networks" / "normalisation.py"
    for path in (project / "restain").rglob("*.py"):
        lines = [line for line in path.read_text().splitlines() if "isinstance" not in line]
        words = set(plain.findall("\n".join(lines)))
        assert path == own or not words, f"{path}: use restain.networks.normalisation instead of {words}"
