"""Agreement of scores read from virtual and real stains, as differences over many tiles.

A high correlation does not imply agreement: one method may always read too high. Bland and Altman (Lancet
1986) look at the differences instead: their mean is the bias, and 95 % of them lie within the limits of agreement where
they are normally distributed.

Values are per tile, N each; tiles where either value is NaN (no nuclei) are left out.
"""

import math

import torch
from torch import Tensor

from restain.metrics.expression import pearson

WITHIN = 1.96
"""Standard deviations on both sides of the mean between which 95 % of a normal distribution lie."""


def bias(virtual: Tensor, real: Tensor) -> Tensor:
    """Mean difference, virtual minus real: N and N to a scalar."""
    return _differences(virtual, real).mean()


def mean_error(virtual: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference: N and N to a scalar."""
    return _differences(virtual, real).abs().mean()


def limits_of_agreement(virtual: Tensor, real: Tensor) -> Tensor:
    """Bias minus and plus 1.96 standard deviations of the differences (N - 1): N and N to 2 values, low and high."""
    middle, spread = bias(virtual, real), agreement_width(virtual, real)
    return torch.stack([middle - spread, middle + spread])


def agreement_width(virtual: Tensor, real: Tensor) -> Tensor:
    """Half the width of the limits of agreement: 95 % of the tiles differ from the bias by no more."""
    differences = _differences(virtual, real)
    return WITHIN * differences.std() if len(differences) > 1 else differences.new_tensor(math.nan)


def correlation(virtual: Tensor, real: Tensor) -> Tensor:
    """Pearson correlation over tiles: N and N to a scalar."""
    known = _known(virtual, real)
    return pearson(virtual[known], real[known])


def _differences(virtual: Tensor, real: Tensor) -> Tensor:
    known = _known(virtual, real)
    return virtual[known] - real[known]


def _known(virtual: Tensor, real: Tensor) -> Tensor:
    return virtual.isfinite() & real.isfinite()
