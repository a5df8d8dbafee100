"""Facts about the paired methods on batch norm: pix2pix and PyramidP2P."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.errors import ShapeError
from restain.losses.pyramid import octave_l1_losses
from restain.methods.base import Method, Progress
from restain.methods.pix2pix import Pix2pix, Pix2pixConfig
from restain.methods.pyramidp2p import PyramidP2P, PyramidP2PConfig

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]
Paired = Pix2pix | PyramidP2P


@pytest.fixture(params=["pix2pix", "pyramidp2p"])
def paired(request: pytest.FixtureRequest, build: Build) -> Paired:
    method = build(request.param)
    assert isinstance(method, Paired)
    return method


def still(method: Method) -> dict[str, torch.optim.Optimizer]:
    return {
        name: torch.optim.SGD(optimizer.param_groups[0]["params"], lr=0.0)
        for name, optimizer in method.optimizers().items()
    }


def test_the_losses_are_the_papers(paired: Paired, draw_pair: DrawPair, progress: Progress) -> None:
    pair = draw_pair(0, 1, dtype=torch.float64)
    paired.double().eval()
    losses = paired.step(pair, still(paired), progress)
    with torch.no_grad():
        virtual = paired.generator(pair.he)
        real = paired.discriminator(torch.cat([pair.he, pair.ihc], 1)).sigmoid()
        fake = paired.discriminator(torch.cat([pair.he, virtual], 1)).sigmoid()
    assert_close(losses["discriminator/gan"], -(real.log().mean() + (1 - fake).log().mean()) / 2)
    assert_close(losses["generator/gan"], -fake.log().mean())
    if isinstance(paired, Pix2pix):
        assert_close(losses["generator/l1"], 100 * (virtual - pair.ihc).abs().mean())
    else:
        octaves = octave_l1_losses(virtual, pair.ihc)
        for size, loss in zip((1, 2, 4, 8), octaves, strict=True):
            assert_close(losses[f"generator/l1_{size}"], 25 * loss)


def test_real_and_virtual_are_judged_by_statistics_of_their_own(
    paired: Paired, draw_pair: DrawPair, progress: Progress
) -> None:
    pair = draw_pair(0, 1, dtype=torch.float64)
    paired.double()
    for layer in paired.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    loss = paired.step(pair, still(paired), progress)["discriminator/gan"]
    with torch.no_grad():
        virtual = paired.generator(pair.he)
        alone = [paired.discriminator(torch.cat([pair.he, images], 1)) for images in (pair.ihc, virtual)]
        mixed = paired.discriminator(torch.cat([torch.cat([pair.he, images], 1) for images in (pair.ihc, virtual)]))
    assert_close(loss, -(alone[0].sigmoid().log().mean() + (1 - alone[1].sigmoid()).log().mean()) / 2)
    assert not torch.allclose(mixed, torch.cat(alone))


def test_the_generators_running_statistics_see_each_batch_once(
    paired: Paired, draw_pair: DrawPair, progress: Progress
) -> None:
    pair, optimizers = draw_pair(0), paired.optimizers()
    for _ in range(3):
        paired.step(pair, optimizers, progress)
    counts = {
        int(layer.num_batches_tracked)
        for layer in paired.generator.modules()
        if isinstance(layer, nn.BatchNorm2d) and layer.num_batches_tracked is not None
    }
    assert counts == {3}
    paired.eval()
    before = {name: value.clone() for name, value in paired.named_buffers()}
    paired.sample(pair)
    assert all(torch.equal(before[name], value) for name, value in paired.named_buffers()), "staining moved them"


def test_a_sample_does_not_depend_on_its_neighbours_or_on_chance(paired: Paired, draw_pair: DrawPair) -> None:
    paired.eval()
    together = paired.sample(draw_pair(0, 1))["virtual"]
    assert_close(together[1:], paired.sample(draw_pair(1))["virtual"])
    assert torch.equal(together, paired.sample(draw_pair(0, 1))["virtual"])


def test_first_weights_are_normal_with_deviation_a_fiftieth(paired: Paired) -> None:
    wide = (Pix2pix(Pix2pixConfig(width=16, depth=5)), PyramidP2P(PyramidP2PConfig(width=16, blocks=2)))
    weights: list[Tensor] = [
        weight for method in wide for weight in method.parameters() if weight.ndim == 4 and weight.numel() > 4000
    ]
    assert len(weights) > 10
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_authors_settings() -> None:
    ours, theirs = Pix2pixConfig(), PyramidP2PConfig()
    assert (ours.width, ours.depth, ours.dropout, ours.lambda_l1, ours.lr) == (64, 8, 0.5, 100, 2e-4)
    assert (theirs.width, theirs.blocks, theirs.octaves, theirs.lambda_l1, theirs.lr) == (64, 9, 4, 25, 2e-4)


def test_a_crop_that_does_not_fit_the_unet_is_refused(build: Build, draw_pair: DrawPair, progress: Progress) -> None:
    method = build("pix2pix", depth=7)
    with pytest.raises(ShapeError, match="these images are 64 x 64; set depth to at most 6"):
        method.step(draw_pair(0), method.optimizers(), progress)
