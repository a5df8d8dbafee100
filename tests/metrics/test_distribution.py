"""FID and KID: equal to independent implementations, sound where covariances lack rank, with errors that are true."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.metrics.distribution import frechet, frechet_distance, frechet_draws, kernel_distance, kernel_draws
from restain.metrics.interval import counts, interval, samples


def features(tiles: int, width: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    rows = torch.randn(tiles, width, generator=generator, dtype=torch.float64)
    return scale * rows @ mixing / math.sqrt(width) + shift


def frechet_by_square_root(virtual: Tensor, real: Tensor) -> float:
    """The published formula, word for word."""
    shift = (virtual.mean(0) - real.mean(0)).numpy()
    first, second = np.cov(virtual.numpy().T), np.cov(real.numpy().T)
    return float(shift @ shift + np.trace(first + second - 2 * sqrtm(first @ second).real))


def kernel_by_loops(virtual: Tensor, real: Tensor) -> float:
    """Bińkowski et al. 2018, equation 4, pair by pair."""

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    def within(rows: Tensor) -> float:
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return sum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    between = sum(kernel(x, y) for x in virtual for y in real) / len(virtual) / len(real)
    return within(virtual) + within(real) - 2 * between


@pytest.mark.parametrize(("tiles", "partners"), [(60, 60), (60, 45)])
def test_fid_equals_the_matrix_square_root(tiles: int, partners: int) -> None:
    virtual, real = features(tiles, 12, 0, 0.3, 1.2), features(partners, 12, 1)
    assert_close(frechet_distance(virtual, real).item(), frechet_by_square_root(virtual, real), rtol=1e-6, atol=1e-6)


def test_fid_of_fewer_tiles_than_features_is_that_of_the_space_they_span() -> None:
    """Turned into 64 dimensions, 10 of which are used, nothing changes; the square root fails here."""
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    virtual, real = features(30, 10, 0, 0.5), features(30, 10, 1)
    expected = frechet_by_square_root(virtual, real)
    assert_close(frechet_distance(virtual @ rotation[:10], real @ rotation[:10]).item(), expected, rtol=1e-6, atol=1e-6)
    few = features(8, 64, 2)
    assert_close(frechet_distance(few, few).item(), 0.0, rtol=0, atol=1e-9)
    assert_close(frechet_distance(few, few + 1).item(), 64.0, rtol=1e-9, atol=0)  # a shift of 1 in each dimension


@given(st.integers(0, 1000), st.integers(3, 12))
def test_fid_is_symmetric_and_does_not_depend_on_order_or_rotation(seed: int, width: int) -> None:
    virtual, real = features(9, width, seed, 0.2), features(9, width, seed + 1)
    distance = frechet_distance(virtual, real)
    assert distance > -1e-9
    assert_close(frechet_distance(real, virtual), distance)
    assert_close(frechet_distance(virtual.flip(0), real.roll(2, 0)), distance)
    rotation = torch.linalg.qr(features(width, width, seed + 2))[0]
    assert_close(frechet_distance(virtual @ rotation, real @ rotation), distance)


@pytest.mark.parametrize("width", [5, 40])
def test_influence_is_the_derivative_of_the_distance(width: int) -> None:
    """Weighing one virtual tile a little more moves the distance by its influence."""
    virtual, real = features(20, width, 0, 0.3), features(20, width, 1)
    whole = frechet(virtual, real)
    many = virtual.repeat(1000, 1)  # so that one more copy is a small weight
    even = frechet_distance(many, real)
    for tile in (0, 7):
        heavier = torch.cat([many, virtual[tile : tile + 1].repeat(20, 1)])
        slope = (frechet_distance(heavier, real) - even).item() / (20 / len(heavier))
        assert_close(slope, frechet(many, real).virtual_influence[tile].item(), rtol=0.02, atol=0.02)
    assert_close(whole.virtual_influence.mean().item(), 0.0, rtol=0, atol=1e-9)


def kernel_whole(virtual: Tensor, real: Tensor) -> Tensor:
    return kernel_distance(virtual, real, 1, len(virtual), torch.Generator())


@pytest.mark.parametrize(("tiles", "width"), [(60, 6), (24, 48)])
def test_intervals_are_as_wide_as_new_tiles_would_scatter(tiles: int, width: int) -> None:
    repeats = [(features(tiles, width, 2 * seed, 0.2, 1.3), features(tiles, width, 2 * seed + 1)) for seed in range(60)]
    drawn = counts(samples(tiles, draws=300), tiles)
    for distance, draws in (
        (frechet_distance, frechet_draws),
        (kernel_whole, lambda v, r, drawn: kernel_draws(kernel_whole(v, r), v, r, drawn)),
    ):
        scatter = torch.stack([distance(*pair) for pair in repeats]).std().item()
        spread = torch.stack([draws(*pair, drawn).std() for pair in repeats[:15]]).mean().item()
        assert 0.6 < spread / scatter < 2, "a right order of size, rather too wide than too narrow"


def test_kid_over_cases_is_drawn_around_its_value_and_as_widely_as_new_cases_would_scatter() -> None:
    """Ten tiles of a case are alike; a case that is drawn twice must not make the sets look farther apart."""
    case = torch.arange(20).repeat_interleave(10)
    drawn = counts(samples(200, draws=300, cases=case.tolist()), 200)
    generator = torch.Generator().manual_seed(3)
    values, spreads, covered = [], [], []
    for _ in range(60):
        patient = torch.randn(20, 16, generator=generator)
        virtual, real = (
            share * patient[case] + 0.5 * torch.randn(200, 16, generator=generator) + shift
            for share, shift in ((0.5, 0.2), (1, 0))
        )
        draws = kernel_draws(value := kernel_whole(virtual, real), virtual, real, drawn)
        assert abs(draws.mean() - value).item() < 0.2 * draws.std().item()
        values.append(value)
        spreads.append(draws.std())
        covered.append(interval(draws))
    spread = (torch.stack(spreads).mean() / torch.stack(values).std()).item()
    assert 0.7 < spread < 2, "a right order of size, rather too wide than too narrow"
    middle = torch.stack(values).mean().item()
    assert sum(low <= middle <= high for low, high in covered) >= 0.88 * 60, "meant to be 95 of 100"


def test_kid_equals_the_sum_over_pairs() -> None:
    virtual, real = features(14, 6, 0, 0.4), features(14, 6, 1)
    value = kernel_distance(virtual, real, 10, 14, torch.Generator())
    assert_close(value.item(), kernel_by_loops(virtual, real), rtol=1e-6, atol=1e-9)


def test_kid_is_the_mean_of_its_subsets_and_unbiased() -> None:
    virtual, real = features(40, 6, 0, 0.4), features(40, 6, 1)
    whole = kernel_by_loops(virtual, real)
    value = kernel_distance(virtual, real, 400, 10, torch.Generator().manual_seed(0))
    subsets = [kernel_distance(virtual, real, 1, 10, torch.Generator().manual_seed(seed)).item() for seed in range(50)]
    assert abs(value.item() - whole) < 3 * np.std(subsets) / math.sqrt(400)
    alike = [kernel_whole(features(20, 6, seed), features(20, 6, seed + 500)).item() for seed in range(200)]
    assert abs(np.mean(alike)) < 3 * np.std(alike) / math.sqrt(200), "0 for two samples of one distribution"
    assert min(alike) < 0


def test_drawing_every_tile_once_changes_nothing() -> None:
    virtual, real = features(16, 5, 0, 0.4), features(16, 5, 1)
    once = torch.ones(1, 16, dtype=torch.int16)
    assert_close(frechet_draws(virtual, real, once)[0], frechet_distance(virtual, real))
    whole = kernel_whole(virtual, real)
    assert_close(kernel_draws(whole, virtual, real, once)[0], whole)


@pytest.mark.parametrize("pair", [0, 5])
def test_a_draw_of_kid_is_its_derivative(pair: int) -> None:
    """Weighing one pair a little more moves the distance by what the draw says."""
    virtual, real = features(12, 5, 0, 0.4), features(12, 5, 1)

    def weighted(weights: Tensor) -> Tensor:
        kernels = [(first @ second.mT / 5 + 1) ** 3 for first, second in ((virtual,) * 2, (real,) * 2, (virtual, real))]
        both = weights[:, None] * weights
        apart = both * (1 - torch.eye(12))
        within = [(apart * kernel).sum() / apart.sum() for kernel in kernels[:2]]
        return within[0] + within[1] - 2 * (both * kernels[2]).sum() / both.sum()

    even = torch.ones(12, dtype=torch.float64)
    heavier = even + 1e-4 * (torch.arange(12) == pair)
    whole = kernel_whole(virtual, real)
    found = kernel_draws(whole, virtual, real, heavier[None])[0]
    assert_close((found - whole) / 1e-4, (weighted(heavier) - weighted(even)) / 1e-4, rtol=1e-3, atol=1e-4)


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="one width with at least 2 rows each, got 4 × 3 and 4 × 2"):
        frechet_distance(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(ShapeError, match="subsets of 9 tiles cannot be drawn from 4"):
        kernel_distance(torch.zeros(4, 3), torch.zeros(4, 3), 1, 9, torch.Generator())
