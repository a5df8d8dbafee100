"""The U-Net of pix2pix: its weight files name each level inside the one before, and give the published images."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from restain.checkpoint import import_published, load_generator, load_published
from restain.errors import CheckpointError
from restain.networks.unet import UNet


class Level(nn.Module):
    """One level as the paper describes it: half the size, what is inside, double the size, joined with what came in."""

    def __init__(
        self, before: int, inside: int, inner: "Level | None", *, outermost: bool, norm: type[nn.Module]
    ) -> None:
        super().__init__()
        bias, has_inner = norm is nn.InstanceNorm2d, inner is not None
        down = nn.Conv2d(3 if outermost else before, inside, 4, 2, 1, bias=bias)
        up = nn.ConvTranspose2d(inside * (2 if has_inner else 1), before, 4, 2, 1, bias=bias or outermost)
        layers: list[nn.Module] = [down] if outermost else [nn.LeakyReLU(0.2), down]
        if inner is not None:
            layers += [inner] if outermost else [norm(inside), inner]
        layers += [nn.ReLU(), up, nn.Tanh() if outermost else norm(before)]
        self.outermost = outermost
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        # the activation that begins a level works in place, so it is the activated features that are joined
        joined = x if self.outermost else nn.functional.leaky_relu(x, 0.2)
        made: Tensor = self.model(x)
        return made if self.outermost else torch.cat([joined, made], 1)


class Published(nn.Module):
    def __init__(self, width: int, depth: int, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        channels = [width * min(2**level, 8) for level in range(depth)]
        inner = None
        for level in range(depth - 1, 0, -1):
            inner = Level(channels[level - 1], channels[level], inner, outermost=False, norm=norm)
        self.model = Level(3, channels[0], inner, outermost=True, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        images: Tensor = self.model(x)
        return images


def images(side: int) -> Tensor:
    return torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(7)) * 2 - 1


def published(width: int, depth: int) -> Published:
    """A network that has seen a few images, so that batch norms have statistics; the innermost sees several pixels."""
    torch.manual_seed(1)
    network = Published(width, depth)
    with torch.no_grad():
        network.train()(images(2 << depth))
    return network.eval()


@pytest.mark.parametrize(("width", "depth"), [(2, 5), (1, 7), (3, 2)])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@torch.no_grad()
def test_an_imported_unet_gives_the_published_images(tmp_path: Path, width: int, depth: int, prefix: str) -> None:
    network = published(width, depth)
    state = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "latest_net_G.pth")
    info = import_published(tmp_path / "latest_net_G.pth", tmp_path / "m.safetensors")
    assert (info.kind, info.network["width"], info.network["depth"]) == ("unet", width, depth)
    found = load_generator(tmp_path / "m.safetensors")(images(2 << depth))
    assert_close(found, network(images(2 << depth)), atol=1e-5, rtol=0)


def test_files_of_older_pytorch_lack_a_counter_that_nothing_needs(tmp_path: Path) -> None:
    state = {name: value for name, value in published(2, 4).state_dict().items() if "num_batches" not in name}
    torch.save({"netG": state}, tmp_path / "net.pth")
    assert isinstance(load_published(tmp_path / "net.pth", key="netG"), UNet)


def test_a_unet_that_normalises_by_instance_or_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    torch.save(Published(2, 4, nn.InstanceNorm2d).state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"holds a U-Net generator: it normalises by instance"):
        load_published(tmp_path / "net.pth")
    state = published(2, 4).state_dict()
    del state["model.model.1.model.5.weight"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"lacks model.model.1.model.5.weight"):
        load_published(tmp_path / "net.pth")
