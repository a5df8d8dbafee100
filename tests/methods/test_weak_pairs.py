"""Facts about ASP and PSPStain with its segmenter, which learn from sections not in register."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.losses.protein import focal_density
from restain.methods.base import Method, Progress
from restain.methods.pspstain import CORRECTED, PspStain, PspStainConfig
from restain.methods.segment import Segment, SegmentConfig, dice_loss
from restain.stains import STAIN_VECTORS, beer_lambert, from_unit

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]


@pytest.fixture
def stained(draw_pair: DrawPair) -> Callable[..., Pair]:
    """Pairs whose IHC has DAB in some places and haematoxylin everywhere."""

    def draw(*indices: int, size: int = 64) -> Pair:
        pair = draw_pair(*indices, size=size)
        amounts = torch.cat([torch.full_like(pair.he[:, :1], 0.1), 3 * pair.he[:, :1].clamp_min(0)], dim=1)
        return replace(pair, ihc=from_unit(beer_lambert(amounts, STAIN_VECTORS[[0, 2]].to(amounts))))

    return draw


def test_asp_trusts_all_places_until_the_decay(build: Build, draw_pair: DrawPair) -> None:
    def losses(decay_left: float) -> dict[str, Tensor]:
        method = build("asp")
        return method.step(draw_pair(0), method.optimizers(), Progress(0, 7, 100, 2, decay_left))

    early, late, last = losses(1.0), losses(0.5), losses(0.0)
    different = {key for key, loss in early.items() if loss != late[key]}
    assert different == {"generator/asp"}
    assert last["generator/asp"] != late["generator/asp"]


def test_the_real_ihc_of_asp_is_the_neighbours_at_the_same_places(
    build: Build, draw_pair: DrawPair, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def record(query: Tensor, key: Tensor, **_: object) -> Tensor:
        seen.append((query, key))
        return query.sum()

    monkeypatch.setattr("restain.methods.asp.adaptive_patch_nce", record)
    pair = draw_pair(0)
    same = replace(pair, ihc=pair.he)
    method = build("asp").eval()  # so that spectral norm does not count the passes
    with torch.no_grad():
        virtual = method.product()(pair.he)
    method.step(replace(pair, ihc=virtual), method.optimizers(), progress)
    for query, key in seen:
        assert_close(query, key)  # compared with the very image that it draws
    seen.clear()
    method.step(same, method.optimizers(), progress)
    assert not any(torch.allclose(query, key) for query, key in seen[2:])


@pytest.mark.parametrize("profile", ["published", "corrected"])
def test_the_segmenter_forgets_nothing_in_either_mode(
    build: Build, stained: DrawPair, progress: Progress, profile: str
) -> None:
    method = build("pspstain", profile=profile)
    assert isinstance(method, PspStain)
    method.train()
    assert method.generator.training
    assert all(module.training == (profile == "published") for module in method.segmenter.modules())
    assert not any(module.training for module in method.eval().segmenter.modules())
    method.train()
    assert not any(weight.requires_grad for weight in method.segmenter.parameters())
    before = copy.deepcopy(method.segmenter.state_dict())
    method.step(stained(0, 1), method.optimizers(), progress)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.segmenter.state_dict().items())


def test_the_discriminator_of_pspstain_is_slow(build: Build) -> None:
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in build("pspstain").optimizers().items()}
    assert rates["discriminator"] == pytest.approx(rates["generator"] / 20)
    assert rates["sampler"] == rates["generator"]


def test_pspstains_segmenter_is_proposed_with_its_settings() -> None:
    (proposal,) = PspStain.auxiliary(PspStainConfig(width=8, positive_density=0.1, unit_range=True)).values()
    assert proposal.method == Segment.name
    assert SegmentConfig(**proposal.model) == SegmentConfig(width=4, positive_density=0.1, unit_range=True)


def semantics(method: PspStain, virtual: Tensor, real: Tensor) -> dict[str, Tensor]:
    return method._semantics(virtual, real)


@pytest.mark.parametrize("profile", ["published", "corrected"])
def test_an_ihc_that_equals_its_neighbour_costs_nothing_but_what_prototypes_leave_open(
    build: Build, stained: DrawPair, profile: str
) -> None:
    method, ihc = build("pspstain", profile=profile), stained(0, 1).ihc
    assert isinstance(method, PspStain)
    terms = semantics(method, ihc, ihc)
    assert all(abs(loss) < 1e-6 for name, loss in terms.items() if name != "prototype")
    paler = semantics(method, ihc / 2 + 0.5, ihc)
    assert all(paler[name] > terms[name] for name in terms if name != "prototype")


@pytest.mark.parametrize("profile", ["published", "corrected"])
def test_every_semantic_term_reaches_the_virtual_ihc(build: Build, stained: DrawPair, profile: str) -> None:
    method = build("pspstain", profile=profile)
    assert isinstance(method, PspStain)
    real = stained(0).ihc
    virtual = ((real + stained(5).ihc) * 0.4 + 0.2).requires_grad_()  # something of both, and paler
    for name, loss in semantics(method, virtual, real).items():
        (gradient,) = torch.autograd.grad(loss, virtual, retain_graph=True)
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("unit_range", [False, True])
def test_densities_are_measured_in_the_range_that_is_asked_for(
    build: Build, stained: DrawPair, progress: Progress, monkeypatch: pytest.MonkeyPatch, unit_range: bool
) -> None:
    seen: list[Tensor] = []

    def record(light: Tensor) -> Tensor:
        seen.append(light.detach())
        return focal_density(light)

    for module in ("pspstain", "segment"):
        monkeypatch.setattr(f"restain.methods.{module}.focal_density", record)
    for name in ("pspstain", "segment"):
        method = build(name, unit_range=unit_range)
        method.step(stained(0), method.optimizers(), progress)
    assert len(seen) == 3
    assert all((light.min() >= 0) == unit_range for light in seen)


def test_pspstain_sums_over_the_batch_what_the_published_code_sums(build: Build, stained: DrawPair) -> None:
    pair, other = stained(0, 1), stained(5, 6)
    settings = {"segmenter_training": False}  # dropout would differ
    for batch_sum, times in ((True, 2), (False, 1)):
        method = build("pspstain", batch_sum=batch_sum, **settings)
        assert isinstance(method, PspStain)
        both = semantics(method, pair.ihc, other.ihc)
        alone = [semantics(method, pair.ihc[[image]], other.ihc[[image]]) for image in range(2)]
        for name, loss in both.items():
            scale = times if name in ("protein_mean", "prototype") else 1
            assert_close(loss, scale * (alone[0][name] + alone[1][name]) / 2)


def test_a_profile_is_a_set_of_defaults() -> None:
    plain, corrected = PspStainConfig(), PspStainConfig(profile="corrected")
    different = {name for name, value in plain if getattr(corrected, name) != value}
    assert different == {"profile", *CORRECTED}
    assert PspStainConfig(profile="corrected", softmaxes=2).softmaxes == 2


def test_the_segmenters_masks_are_where_dab_is(build: Build, stained: DrawPair) -> None:
    pair = stained(3)
    strict, loose = (build("segment", unit_range=True, positive_density=least) for least in (0.3, 0.033))
    masks = {name: method.sample(pair)["mask"] for name, method in (("strict", strict), ("loose", loose))}
    amounts = 3 * pair.he[:, :1].clamp_min(0)
    assert 0 < (masks["strict"] > 0).float().mean() < (masks["loose"] > 0).float().mean() < 1
    assert amounts[masks["loose"][:, :1] > 0].min() > amounts[masks["loose"][:, :1] < 0].quantile(0.5)
    assert set(masks["loose"].unique().tolist()) == {-1.0, 1.0}


def test_dice() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    assert dice_loss(mask, mask) == 0
    assert float(dice_loss(1 - mask, mask)) == pytest.approx(1 - 1 / 17)
    half = mask.clone()
    half[:, :, 1] = 0
    assert float(dice_loss(half, mask)) == pytest.approx(1 - (2 * 4 + 1) / (12 + 1))
    assert dice_loss(torch.zeros_like(mask), torch.zeros_like(mask)) == 0  # nothing there, and nothing found
    assert_close(dice_loss(torch.cat([half, mask]), torch.cat([mask, mask])), dice_loss(half, mask) / 2)
