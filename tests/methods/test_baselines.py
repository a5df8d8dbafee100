"""Facts about reconstruct, classify and CUT, and about what all steps are made of."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.errors import CheckpointError, MissingError
from restain.methods.base import Method, Progress, descend, frozen, total
from restain.methods.classify import Classify, ClassifyConfig, distillation_loss
from restain.methods.cut import CutConfig
from restain.methods.nce import NCE_TAPS, nce, nce_channels
from restain.networks.resnet import ResNet18
from restain.networks.sampler import Sampler, sample_positions

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A weight file with the names and shapes of the public ImageNet ResNet-18."""
    path = tmp_path / "resnet18-public.pth"
    torch.save(ResNet18(1000).state_dict(), path)
    return path


def test_fastcut_is_a_set_of_defaults() -> None:
    fast = CutConfig(fast=True)
    assert (fast.identity, fast.lambda_nce, fast.flip_equivariance) == (False, 10.0, True)
    assert CutConfig(fast=True, lambda_nce=5).lambda_nce == 5
    assert (CutConfig().identity, CutConfig().lambda_nce) == (True, 1.0)


def test_the_teacher_learns_and_is_distilled(teacher: Path, draw_pair: DrawPair, progress: Progress) -> None:
    method = Classify(ClassifyConfig(width=4, teacher=teacher))
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in method.optimizers().items()}
    assert rates["teacher"] == pytest.approx(rates["classifier"] / 5)
    assert method.teacher is not None
    before = method.teacher.fc.weight.clone()
    losses = method.step(draw_pair(0, 1), method.optimizers(), progress)
    assert set(losses) == {"teacher/cross_entropy", "classifier/distillation", "classifier/cross_entropy"}
    assert not torch.equal(before, method.teacher.fc.weight)


def test_a_file_that_is_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="not found"):
        Classify(ClassifyConfig(width=4, teacher=tmp_path / "none.pth"))
    wrong = tmp_path / "wrong.pth"
    torch.save({"weight": torch.zeros(3)}, wrong)
    with pytest.raises(CheckpointError, match="no ResNet-18 weight file"):
        Classify(ClassifyConfig(width=4, teacher=wrong))
    wrong.write_bytes(b"not a weight file")
    with pytest.raises(CheckpointError, match="no ResNet-18 weight file"):
        Classify(ClassifyConfig(width=4, teacher=wrong))


def test_distillation_is_the_divergence_of_softened_answers() -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    by_hand = 16 * (p * (p / q).log()).sum(1).mean()
    assert_close(distillation_loss(student, teacher, 4.0), by_hand)
    assert_close(distillation_loss(teacher, teacher, 4.0), torch.tensor(0.0))


def test_a_mirrored_input_is_compared_mirrored_back(
    build: Build, draw_pair: DrawPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, method = draw_pair(0), build("cut", fast=True)
    generator = method.product()
    seen = {}

    def record(_: Sampler, query: dict[str, Tensor], key: dict[str, Tensor], *places: object) -> Tensor:
        assert places
        seen.update(query=query["input"], key=key["input"])
        return query["input"].sum()

    monkeypatch.setattr("restain.methods.cut.nce", record)
    with torch.no_grad():
        expected = generator(pair.he.flip(-1)).flip(-1)
    step = next(step for step in range(20) if _mirrors(pair, step))
    method.step(pair, method.optimizers(), Progress(0, step, 100, 10))
    assert_close(seen["key"], F.pad(pair.he, (3, 3, 3, 3), mode="reflect"))
    assert_close(seen["query"], F.pad(expected, (3, 3, 3, 3), mode="reflect"))


def _mirrors(pair: Pair, step: int) -> bool:
    (generator,) = Progress(0, step, 100, 10).image_generators(pair, "mirror")
    return bool(torch.rand((), generator=generator) < 0.5)


def test_nce_is_the_mean_over_taps_and_moves_only_the_query_side() -> None:
    sampler = Sampler(nce_channels(2), width=8)
    features = {tap: torch.randn(1, count, 6, 6) for tap, count in nce_channels(2).items()}
    query = {tap: feature.clone().requires_grad_() for tap, feature in features.items()}
    key = {tap: torch.randn_like(feature).requires_grad_() for tap, feature in features.items()}
    positions = sample_positions(features, torch.Generator().manual_seed(0), 16)
    loss = nce(sampler, query, key, positions)
    by_hand = []
    for tap in NCE_TAPS:
        queries = sampler(query, positions)[tap][0]
        keys = sampler(key, positions)[tap][0]
        by_hand.append(F.cross_entropy(queries @ keys.T / 0.07, torch.arange(16)))
    assert_close(loss, torch.stack(by_hand).mean())
    loss.backward()
    assert all(feature.grad is not None for feature in query.values())
    assert all(feature.grad is None for feature in key.values())


def test_frozen_weights_take_no_gradient_but_let_it_through() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    layer.bias.requires_grad_(False)
    with frozen(layer):
        layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad, "what was frozen before stays frozen"


def test_descend_forgets_gradients_of_before() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.tensor([100.0])
    descend(total([(2 * weight).sum(), (3 * weight).sum()]), optimizer)
    assert_close(weight.data, torch.tensor([0.5]))


def test_random_draws_of_an_image_do_not_depend_on_its_batch(draw_pair: DrawPair, progress: Progress) -> None:
    alone = progress.image_generators(draw_pair(5), "views")
    together = progress.image_generators(draw_pair(2, 5), "views")
    assert_close(torch.rand(4, generator=alone[0]), torch.rand(4, generator=together[1]))
    other = progress.image_generators(draw_pair(5), "positions")
    assert not torch.equal(torch.rand(4, generator=alone[0]), torch.rand(4, generator=other[0]))
