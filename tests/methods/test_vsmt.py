"""Facts about VSMT: profiles, ramp, frozen models, and that doing each piece of work once changes nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.errors import ConfigError
from restain.methods.base import Method, Progress
from restain.methods.vsmt import Vsmt, VsmtConfig
from restain.methods.vsmt.fusion import Fusion, Projector, mean_over_tasks
from restain.methods.vsmt.structure import Modulator
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig
from restain.networks.normalisation import InstanceNorm

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]


@pytest.mark.parametrize(
    ("settings", "structure", "restained"),
    [
        ({"alignment": "identity", "task_gap": False}, 0, 0),  # y's own features are there, and nothing is compared
        ({"alignment": "identity"}, 1, 1),  # G(y), which the guidance is held to
        ({"task_gap": False}, 3, 1),  # v, G(y), and the views of v together
        ({}, 3, 1),
        ({"structure_enhancement": False}, 2, 1),
        ({"reference": "ihc"}, 2, 0),
    ],
)
def test_the_autoencoder_sees_only_what_is_read(
    settings: dict[str, Any],
    structure: int,
    restained: int,
    build: Build,
    draw_pair: DrawPair,
    progress: Progress,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, calls = build("vsmt", **settings), {"structure": 0, "restained": 0}
    assert isinstance(method, Vsmt)
    ask, stain = method.tasks.ihc_structure, method.generator.forward

    def counted(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        calls[name] += 1
        return function(*arguments)

    monkeypatch.setattr(method.tasks, "ihc_structure", partial(counted, "structure", ask))
    monkeypatch.setattr(method.generator, "forward", partial(counted, "restained", stain))
    monkeypatch.setattr(method.tasks, "views", partial(counted, "structure", method.tasks.views))
    method.step(draw_pair(0, 1, size=40), method.optimizers(), progress)
    assert calls == {"structure": structure, "restained": restained}


def test_the_guided_image_is_logged_as_the_plain_one_is(
    build: Build, draw_pair: DrawPair, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With guidance that adds nothing, the teacher's terms are the student's, twice them for the adversarial one."""
    method = build("vsmt").double().eval()
    assert isinstance(method, Vsmt)
    method.guided_discriminator.load_state_dict(method.discriminator.state_dict())
    guidance = method._guidance
    monkeypatch.setattr(method, "_guidance", lambda *given: {tap: 0 * x for tap, x in guidance(*given).items()})
    weights = {name: optimizer.param_groups[0]["params"] for name, optimizer in method.optimizers().items()}
    still: dict[str, torch.optim.Optimizer] = {name: torch.optim.SGD(some, lr=0.0) for name, some in weights.items()}
    losses = method.step(draw_pair(0, dtype=torch.float64), still, progress)
    for term, factor in {"gan": 2, "nce": 1, "pyramid": 1}.items():
        assert_close(losses[f"alignment/{term}"], factor * losses[f"generator/{term}"])
    assert losses["generator/guidance"] == 0


def test_a_profile_is_a_set_of_defaults() -> None:
    published, paper = VsmtConfig(), VsmtConfig(profile="paper")
    assert (published.reference, paper.reference) == ("restained", "ihc")
    assert (published.views.channel_swap, paper.views.channel_swap) == (0.0, 0.5)
    kept = VsmtConfig(profile="paper", reference="restained", views={"channel_swap": 0.25})
    assert (kept.reference, kept.guidance_distance) == ("restained", "l2")
    assert (kept.views.channel_swap, kept.views.rgb_jitter) == (0.25, 0.5)
    for config in (kept, published, paper, VsmtConfig(ramp_epochs=2), VsmtConfig(profile="paper", ramp_steps=9)):
        again = VsmtConfig.model_validate(config.model_dump())
        assert again == config, "a resolved recipe means the same when read again"


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"clusters": 6}, {"region_size": 3}, {"lambda_nse": 1.0}, {"alignment": "none"}):
        with pytest.raises(ValidationError):
            VsmtConfig(**wrong)


def at(step: int, steps_per_epoch: int = 7) -> Progress:
    return Progress(seed=0, step=step, steps=10**6, steps_per_epoch=steps_per_epoch)


def test_the_ramp_starts_at_zero_and_stays_at_one() -> None:
    config = VsmtConfig()
    assert [config.ramp(at(step)) for step in (0, 20_000, 280_000)] == [0, 1, 1]
    assert config.ramp(at(10_000)) == pytest.approx(0.5**10)
    assert VsmtConfig(ramp_epochs=0).ramp(at(0)) == 1
    by_epoch = VsmtConfig(ramp_epochs=4, ramp_power=1)
    assert [by_epoch.ramp(at(step, steps_per_epoch=100)) for step in (0, 100, 400)] == [0, 0.25, 1]
    assert VsmtConfig(profile="paper").ramp(at(250, steps_per_epoch=100)) == pytest.approx(0.5**10)
    with pytest.raises(ValidationError, match="ramp_steps is 10, ramp_epochs is 1"):
        VsmtConfig(ramp_steps=10, ramp_epochs=1)


def test_the_auxiliary_models_stay_in_evaluation_mode_and_frozen(build: Build) -> None:
    method = build("vsmt")
    method.train()
    assert method.generator.training
    assert not any(module.training for module in method.tasks.modules())
    assert not any(weight.requires_grad for weight in method.tasks.parameters())


def test_auxiliary_models_of_another_width_are_refused() -> None:
    narrow = Autoencoder(AuxiliaryConfig(width=2))
    with pytest.raises(ConfigError, match="he_classifier has width 2, the method 4"):
        Vsmt(
            VsmtConfig(width=4),
            he_autoencoder=narrow,
            he_classifier=narrow,  # type: ignore[arg-type]
            ihc_autoencoder=narrow,
            ihc_classifier=narrow,  # type: ignore[arg-type]
        )


def test_without_guidance_nothing_must_be_trained_first() -> None:
    assert Vsmt.auxiliary(VsmtConfig(guidance=False)) == {}
    assert set(Vsmt.auxiliary(VsmtConfig())) == {"he_autoencoder", "he_classifier", "ihc_autoencoder", "ihc_classifier"}


@torch.no_grad()
def test_shapes_of_the_parts() -> None:
    features = torch.randn(2, 16, 32, 32)
    modulator = Modulator(16, region_size=8)
    assert modulator(features).shape == (2, 8, 4, 4)
    assert modulator.head(modulator(features)).shape == (2, 8, 4, 4)
    wide = torch.randn(2, 32, 32, 32)
    assert Fusion(16)(wide, wide).shape == (2, 16, 32, 32)
    assert Projector(16)(features).shape == (2, 8, 32, 32)


def test_a_region_sees_nothing_outside_itself_but_for_the_norm() -> None:
    modulator = Modulator(8, region_size=4)
    for layer in list(modulator.layers):
        if isinstance(layer, InstanceNorm):
            layer.forward = lambda x: x
    features = torch.randn(1, 8, 8, 8, requires_grad=True)
    modulator(features)[0, :, 1, 0].sum().backward()
    assert features.grad is not None
    seen = features.grad.abs().sum(dim=(0, 1)) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[4:, :4] = True
    assert torch.equal(seen, expected)


def test_the_mean_over_tasks_is_their_mean() -> None:
    he, ihc = torch.full((1, 4, 2, 2), 1.0), torch.full((1, 4, 2, 2), 3.0)
    he[:, 2:] = 5.0
    assert_close(mean_over_tasks(he, ihc), torch.full((1, 2, 2, 2), 3.0))


def test_align_gives_one_matrix_per_pair(build: Build, draw_pair: DrawPair) -> None:
    method = build("vsmt").eval()
    assert isinstance(method, Vsmt)
    pair = draw_pair(0, 1)
    matrix = method.align(pair.he, pair.ihc, torch.Generator().manual_seed(0))
    assert matrix.shape == (2, 64, 64)
    assert_close(matrix.sum(-1), torch.ones(2, 64))
