from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from restain import alignment
from restain.errors import ShapeError
from restain.randomness import generator

SEEDS = st.integers(0, 10**6)


def features(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "features"), dtype=torch.float64)


def labels(seed: int, *shape: int, clusters: int = 3) -> Tensor:
    return torch.randint(clusters, shape, generator=generator(seed, "labels"))


def rearrange_by_loops(matrix: Tensor, values: Tensor, side: int) -> Tensor:
    columns = values.shape[3] // side
    result = torch.zeros_like(values)
    for image in range(len(values)):
        for virtual in range(matrix.shape[-1]):
            for real in range(matrix.shape[-1]):
                y, x = virtual // columns * side, virtual % columns * side
                v, u = real // columns * side, real % columns * side
                source = values[image, :, v : v + side, u : u + side]
                result[image, :, y : y + side, x : x + side] += matrix[image, virtual, real] * source
    return result


@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_rearrangement_by_its_definition(seed: int, rows: int, columns: int, side: int) -> None:
    matrix = features(seed, 2, rows * columns, rows * columns).softmax(-1)
    values = features(seed + 1, 2, 3, rows * side, columns * side)
    assert_close(alignment.rearrange(matrix, values), rearrange_by_loops(matrix, values, side))


def test_identity_moves_nothing() -> None:
    values = features(0, 2, 3, 8, 8)
    identity = alignment.identity_alignment(2, 16, values)
    assert torch.equal(alignment.rearrange(identity, values), values)
    assert alignment.expected_displacement(identity, 512).abs().max() == 0


def test_one_alignment_after_another_is_their_product() -> None:
    first, second = features(0, 2, 9, 9).softmax(-1), features(1, 2, 9, 9).softmax(-1)
    values = features(2, 2, 3, 6, 6)
    twice = alignment.rearrange(second, alignment.rearrange(first, values))
    assert_close(twice, alignment.rearrange(second @ first, values))


def test_memory_layout_does_not_matter() -> None:
    matrix, values = features(0, 1, 4, 4), features(1, 1, 3, 4, 4)
    laid_out = values.to(memory_format=torch.channels_last)
    assert torch.equal(alignment.rearrange(matrix, laid_out), alignment.rearrange(matrix, values))


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204  # torch's own signature
        result = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, result.numel())
        return result


def test_rearrangement_makes_nothing_larger_than_the_features() -> None:
    matrix, values = torch.empty(1, 64, 64, device="meta"), torch.empty(1, 512, 128, 128, device="meta")
    with LargestTensor() as largest:
        alignment.rearrange(matrix, values)
    assert largest.numel == values.numel()


@pytest.mark.parametrize(("regions", "height", "width"), [(8, 8, 8), (9, 8, 8), (128, 8, 8), (6, 4, 8), (4, 2, 18)])
def test_features_that_no_square_regions_cover_are_refused(regions: int, height: int, width: int) -> None:
    with pytest.raises(ShapeError, match=f"{regions} square regions cover, but they are {height} × {width}"):
        alignment.rearrange(torch.zeros(1, regions, regions), torch.zeros(1, 2, height, width))


def test_displacements_are_those_of_a_square_image() -> None:
    with pytest.raises(ShapeError, match="a square number of regions, 64 for example, but there are 8"):
        alignment.expected_displacement(torch.zeros(1, 8, 8), 64)


@given(st.integers(-2, 2), st.integers(-2, 2), st.integers(4, 8))
def test_a_shifted_alignment_has_a_constant_displacement(right: int, down: int, grid: int) -> None:
    matrix = torch.zeros(1, grid**2, grid**2)
    inside = torch.zeros(grid, grid, dtype=torch.bool)
    for y in range(grid):
        for x in range(grid):
            if 0 <= y + down < grid and 0 <= x + right < grid:
                matrix[0, y * grid + x, (y + down) * grid + x + right] = 1
                inside[y, x] = True
    displacement = alignment.expected_displacement(matrix, 16 * grid)
    assert displacement.shape == (1, 2, grid, grid)
    assert (displacement[0, 0][inside] == 16 * right).all()
    assert (displacement[0, 1][inside] == 16 * down).all()


def test_a_region_that_looks_everywhere_is_sent_to_the_middle() -> None:
    displacement = alignment.expected_displacement(torch.full((1, 16, 16), 1 / 16), 64)
    assert_close(displacement[0, 0, 0], torch.tensor([24.0, 8.0, -8.0, -24.0]))
    assert_close(displacement[0, 1, :, 0], torch.tensor([24.0, 8.0, -8.0, -24.0]))


def by_classes(virtual: Tensor, real: Tensor) -> Tensor:
    return alignment.alignment_matrix(virtual, real, labels(0, 2, 16), labels(1, 2, 16), torch.tensor([[0, 1, 2]] * 2))


def by_transport(virtual: Tensor, real: Tensor) -> Tensor:
    return alignment.sinkhorn_alignment(virtual, real, 0.1, 20)


@pytest.mark.parametrize("align", [by_classes, by_transport])
@pytest.mark.parametrize("level", [None, 0.0, 1.0], ids=["random", "no features", "constant"])
def test_gradients_are_finite(align: Callable[[Tensor, Tensor], Tensor], level: float | None) -> None:
    virtual, real = (
        (features(seed, 2, 4, 4, 4) if level is None else torch.full((2, 4, 4, 4), level)).float().requires_grad_()
        for seed in (0, 1)
    )
    values = torch.rand(2, 3, 8, 8, requires_grad=True)
    alignment.rearrange(align(virtual, real), values).square().mean().backward()
    for leaf in (virtual, real, values):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("align", [by_classes, by_transport])
def test_a_batch_is_its_images_one_by_one(align: Callable[[Tensor, Tensor], Tensor]) -> None:
    virtual, real = features(0, 2, 4, 4, 4), features(1, 2, 4, 4, 4)
    together = align(virtual, real)
    for image in range(2):
        # The other image of the batch is replaced: it must not matter.
        others = align(virtual[image].expand_as(virtual), real[image].expand_as(real))
        assert_close(together[image], others[image])


def test_autocast_changes_nothing() -> None:
    virtual, real, values = (features(seed, 2, 4, 4, 4).float() for seed in range(3))
    matrix = by_classes(virtual, real)
    plan, rearranged = by_transport(virtual, real), alignment.rearrange(matrix, values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(by_classes(virtual, real), matrix)
        assert torch.equal(by_transport(virtual, real), plan)
        assert torch.equal(alignment.rearrange(matrix, values), rearranged)
        assert alignment.rearrange(matrix, values.bfloat16()).dtype == torch.float32


def test_nothing_asks_the_device_for_a_value() -> None:
    """Meta tensors have no values: whatever would wait for the device fails on them."""
    virtual, real = torch.empty(2, 2, 8, 8, 8, device="meta")
    points = torch.cat([virtual.flatten(2).mT, real.flatten(2).mT], dim=1)
    chosen = alignment.choose_clusters(points, generator(0))
    virtual_labels, real_labels = chosen.split(64, dim=1)
    similarity = alignment.region_similarity(virtual, real)
    permutation = alignment.active_passive_matching(similarity, virtual_labels, real_labels, 5)
    matrix = alignment.alignment_matrix(virtual, real, virtual_labels, real_labels, permutation)
    assert alignment.rearrange(matrix, virtual).shape == virtual.shape
    assert alignment.sinkhorn_alignment(virtual, real, 0.1, 2).shape == matrix.shape
    assert alignment.expected_displacement(matrix, 512).shape == (2, 2, 8, 8)
