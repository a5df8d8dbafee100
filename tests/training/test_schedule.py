import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, Adam

from restain.training.schedule import decay_left, rate_factor, set_rates


def factors(steps: int, decay_steps: int) -> list[float]:
    return [rate_factor(step, steps, decay_steps) for step in range(steps)]


def test_constant_then_a_straight_line() -> None:
    assert factors(8, 3) == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_without_decay_the_rate_stays() -> None:
    assert factors(5, 0) == [1] * 5


@given(st.integers(1, 50), st.data())
def test_the_rate_never_rises_and_never_reaches_zero(steps: int, data: st.DataObject) -> None:
    decay_steps = data.draw(st.integers(0, steps))
    series = factors(steps, decay_steps)
    assert series == sorted(series, reverse=True)
    assert series[: steps - decay_steps] == [1] * (steps - decay_steps)
    assert series[-1] == pytest.approx(1 / (decay_steps + 1))


def test_the_decay_runs_down_by_epochs_not_by_steps() -> None:
    """ASP's 30 + 10 epochs of 2 steps: ten values, 1.0 to 0.1."""
    series = [decay_left(step, 80, 20, 10) for step in range(80)]
    assert series[:60] == [1.0] * 60
    assert series[60:] == pytest.approx([1 - epoch / 10 for epoch in range(10) for _ in range(2)])
    assert [decay_left(step, 5, 0, 0) for step in range(5)] == [1.0] * 5


@given(st.integers(1, 50), st.integers(1, 20), st.data())
def test_a_short_training_runs_through_the_decay_too(steps: int, decay_epochs: int, data: st.DataObject) -> None:
    decay_steps = data.draw(st.integers(1, steps))
    series = [decay_left(step, steps, decay_steps, decay_epochs) for step in range(steps)]
    assert series == sorted(series, reverse=True)
    assert series[steps - decay_steps] == 1
    assert series[-1] >= 1 / decay_epochs - 1e-12


def test_every_group_of_every_optimiser_is_scaled_from_its_own_rate() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    adam = Adam([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:2], "lr": 0.01}])
    sgd = SGD(weights[2:], lr=1.0)
    for factor in (1.0, 0.5, 0.25):
        set_rates([adam, sgd], factor)
        assert [group["lr"] for group in adam.param_groups] == [0.1 * factor, 0.01 * factor]
        assert sgd.param_groups[0]["lr"] == factor


def test_the_base_rate_survives_saving() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    before, after = Adam([weight], lr=0.1), Adam([weight], lr=0.1)
    set_rates([before], 0.5)
    after.load_state_dict(before.state_dict())
    set_rates([after], 0.25)
    assert after.param_groups[0]["lr"] == 0.1 * 0.25
