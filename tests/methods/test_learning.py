"""Thirty steps on one drawn pair lower what each paired or cyclic method asks of its images."""

from collections.abc import Callable

import pytest
import torch

from restain.data.pairs import Pair
from restain.data.phantom import PhantomSettings
from restain.data.phantom import draw_pair as draw_phantom
from restain.image import to_tensor
from restain.methods.base import Method, Progress

ASKED: dict[str, set[str]] = {
    "pix2pix": {"l1"},
    "cyclegan": {"cycle", "cycle_he", "identity", "identity_he"},
    "pyramidp2p": {"l1_1", "l1_2", "l1_4", "l1_8"},
    "tdkstain": {"l1", "dab"},
}


@pytest.fixture(scope="module")
def phantom() -> Pair:
    drawn = draw_phantom(5, PhantomSettings(size_px=64))
    return Pair(to_tensor(drawn.he), to_tensor(drawn.ihc), torch.tensor([1]), torch.tensor([0]), ("tile",))


@pytest.mark.parametrize("name", ASKED)
def test_thirty_steps_lower_the_loss(name: str, build: Callable[..., Method], phantom: Pair) -> None:
    method = build(name, lr=2e-3)
    optimizers = method.optimizers()
    torch.manual_seed(0)  # dropout
    history = [method.step(phantom, optimizers, Progress(0, step, 30, 30)) for step in range(30)]
    sums = [sum(losses[f"generator/{term}"].item() for term in ASKED[name]) for losses in history]
    assert sum(sums[-5:]) < 0.8 * sum(sums[:5])
    if name == "tdkstain":
        densities = [losses["estimator/l2"].item() for losses in history]
        assert sum(densities[-5:]) < 0.8 * sum(densities[:5])
