"""Facts about SIM-GAN: its terms, who learns from them, and the batch it needs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.errors import ShapeError
from restain.losses.relations import correlation_loss, transport_loss
from restain.methods.base import Method, Progress
from restain.methods.nce import NCE_TAPS, nce
from restain.methods.simgan import SimGan, SimGanConfig
from restain.networks.sampler import sample_positions

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]


def test_simgan_learns_from_a_batch_and_refuses_a_single_image(
    build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    method = build("simgan")
    losses = method.step(draw_pair(0, 1), method.optimizers(), progress)
    assert losses["generator/correlation"] > 0
    with pytest.raises(ShapeError, match="a batch of at least 2"):
        method.step(draw_pair(0), method.optimizers(), progress)
    assert [SimGan.needs(SimGanConfig(lambda_correlation=factor)).images for factor in (10, 0)] == [2, 1]


def test_simgans_correlation_is_of_whole_maps_and_moves_the_generator_alone(
    build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    def weights(factor: float) -> dict[str, Tensor]:
        method = build("simgan", lambda_correlation=factor)
        standing = {
            name: torch.optim.SGD(o.param_groups[0]["params"], lr=1.0) for name, o in method.optimizers().items()
        }
        method.step(draw_pair(0, 1), standing, progress)
        return dict(method.named_parameters())

    weak, strong = weights(1e-3), weights(1e3)
    changed = {name.split(".")[0] for name, weight in weak.items() if not torch.equal(weight, strong[name])}
    assert changed == {"generator"}


def test_simgans_terms_are_the_papers(build: Build, draw_pair: DrawPair, progress: Progress) -> None:
    pair, method = draw_pair(0, 1, dtype=torch.float64), build("simgan").double().eval()
    assert isinstance(method, SimGan)
    still = {name: torch.optim.SGD(o.param_groups[0]["params"], lr=0.0) for name, o in method.optimizers().items()}
    losses = method.step(pair, still, progress)
    with torch.no_grad():
        virtual, same = (method.generator(images) for images in (pair.he, pair.ihc))
        encode = method.generator.features
        x, y, v, s = (encode(images, NCE_TAPS) for images in (pair.he, pair.ihc, virtual, same))
        places = sample_positions(x, progress.generator("positions"), 16)
        expected = {
            "generator/gan": (method.discriminator(virtual) - 1).square().mean(),
            "generator/nce": (nce(method.sampler, v, x, places) + nce(method.sampler, s, y, places)) / 2,
            "generator/correlation": 2 * sum(correlation_loss(v[tap], y[tap]) for tap in NCE_TAPS),
            "generator/transport": 2000
            * sum(transport_loss(*(method.sampler(side, places)[tap] for side in (v, x, y))) for tap in NCE_TAPS),
        }
    for key, loss in expected.items():
        assert_close(losses[key], torch.as_tensor(loss), msg=lambda text, key=key: f"{key}: {text}")


def test_the_published_networks() -> None:
    with torch.device("meta"):
        method = SimGan(SimGanConfig())
    sizes = [
        sum(weight.numel() for weight in part.parameters()) / 1e6 for part in (method.generator, method.discriminator)
    ]
    assert [round(size, 2) for size in sizes] == [7.84, 2.79]
