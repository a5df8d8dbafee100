"""Bland and Altman's figures against numbers made by hand and by numpy."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from restain.metrics.agreement import agreement_width, bias, correlation, limits_of_agreement, mean_error


def test_figures_are_those_of_numpy() -> None:
    virtual, real = torch.rand(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    away = (virtual - real).numpy()
    assert_close(bias(virtual, real).item(), float(away.mean()))
    low, high = limits_of_agreement(virtual, real).tolist()
    assert_close((low, high), (away.mean() - 1.96 * away.std(ddof=1), away.mean() + 1.96 * away.std(ddof=1)))
    assert_close(agreement_width(virtual, real).item(), (high - low) / 2)
    assert_close(correlation(virtual, real).item(), float(np.corrcoef(virtual, real)[0, 1]))


def test_a_constant_excess_is_bias_alone() -> None:
    real = torch.linspace(0, 1, 11)
    assert bias(real + 0.25, real) == pytest.approx(0.25)
    assert agreement_width(real + 0.25, real) == pytest.approx(0, abs=1e-6)
    assert correlation(real + 0.25, real) == pytest.approx(1)
    assert_close(bias(real, real + 0.25), -bias(real + 0.25, real))


def test_the_limits_hold_95_of_100_differences() -> None:
    away = torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    low, high = limits_of_agreement(away, torch.zeros_like(away))
    assert ((away > low) & (away < high)).double().mean().item() == pytest.approx(0.95, abs=0.005)


def test_tiles_without_nuclei_are_left_out() -> None:
    virtual = torch.tensor([0.5, float("nan"), 0.7, 0.1])
    real = torch.tensor([0.4, 0.2, float("nan"), 0.1])
    assert mean_error(virtual, real) == pytest.approx(0.05)
    assert bias(virtual, real) == pytest.approx(0.05)
