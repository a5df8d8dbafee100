"""Published weight files give the images that the networks they came from give, and other files are refused."""

import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import spectral_norm  # the form in which the published files were saved
from torch.testing import assert_close

from restain.checkpoint import import_published, load_checkpoint, load_generator, load_published
from restain.errors import CheckpointError, MissingError, OutputError
from restain.networks.blocks import BlurDown, BlurUp, binomial
from restain.networks.discriminator import Discriminator
from restain.networks.generator import Generator

Golden = Callable[[str], dict[str, NDArray[np.float32]]]
State = dict[str, Tensor]


class Blur(nn.Module):
    """A resampling that keeps one kernel per channel, as the published networks do."""

    def __init__(self, blur: BlurDown | BlurUp, channels: int) -> None:
        super().__init__()
        self.blur = blur
        kernel = binomial(3) if isinstance(blur, BlurDown) else 4 * binomial(4)
        self.register_buffer("filt", kernel.repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.blur(x)


class Block(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Published(nn.Module):
    """The published layout, one numbered sequence, as its description tells."""

    def __init__(self, *, width: int, blocks: int, norm: str, antialias: bool, spectral: bool, dropout: bool) -> None:
        super().__init__()
        bias = norm == "instance"

        def conv(before: int, after: int, size: int = 3, stride: int = 1, padding: int = 0) -> nn.Module:
            layer = nn.Conv2d(before, after, size, stride, padding, bias=bias or after == 3)
            return spectral_norm(layer) if spectral else layer

        def finish(channels: int) -> list[nn.Module]:
            norms = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}
            return [norms[norm](channels), nn.ReLU()]

        layers = [nn.ReflectionPad2d(3), conv(3, width, 7), *finish(width)]
        for before in (width, 2 * width):
            layers += [conv(before, 2 * before, stride=1 if antialias else 2, padding=1), *finish(2 * before)]
            layers += [Blur(BlurDown(), 2 * before)] if antialias else []
        for _ in range(blocks):
            wide = 4 * width
            first = [nn.ReflectionPad2d(1), conv(wide, wide), *finish(wide), *[nn.Dropout(0.5)] * dropout]
            layers.append(Block(*first, nn.ReflectionPad2d(1), conv(wide, wide), finish(wide)[0]))
        for before in (4 * width, 2 * width):
            after = before // 2
            if antialias:
                layers += [Blur(BlurUp(), before), conv(before, after, padding=1), *finish(after)]
            else:
                layers += [nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1, bias=bias), *finish(after)]
        layers += [nn.ReflectionPad2d(3), conv(width, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        images: Tensor = self.model(x)
        return images


VARIANTS: dict[str, dict[str, Any]] = {
    "ASP": {"blocks": 6, "norm": "instance", "antialias": True, "spectral": True, "dropout": False},
    "CUT": {"blocks": 9, "norm": "instance", "antialias": True, "spectral": False, "dropout": False},
    "CUT with dropout": {"blocks": 9, "norm": "instance", "antialias": True, "spectral": False, "dropout": True},
    "CycleGAN": {"blocks": 9, "norm": "instance", "antialias": False, "spectral": False, "dropout": False},
    "PyramidP2P": {"blocks": 9, "norm": "batch", "antialias": False, "spectral": False, "dropout": True},
    "pix2pix": {"blocks": 6, "norm": "batch", "antialias": False, "spectral": False, "dropout": False},
    "CUT with batch norm": {"blocks": 6, "norm": "batch", "antialias": True, "spectral": False, "dropout": False},
}


def images(height: int = 32, width: int = 40) -> Tensor:
    return torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(7)) * 2 - 1


def published(name: str) -> Published:
    """A network that has seen a few images, so that batch norms have statistics."""
    network = Published(width=2, **VARIANTS[name])
    with torch.no_grad():
        network.train()(images())
    return network.eval()


def golden_state(golden: Golden, name: str) -> tuple[State, dict[str, Tensor]]:
    tensors = {key: torch.from_numpy(value) for key, value in golden(name).items()}
    return {key[6:]: value for key, value in tensors.items() if key.startswith("state/")}, tensors


def written(folder: Path, contents: object) -> Path:
    torch.save(contents, folder / "net.pth")
    return folder / "net.pth"


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_an_imported_generator_gives_the_published_images(tmp_path: Path, name: str) -> None:
    network = published(name)
    info = import_published(written(tmp_path, network.state_dict()), tmp_path / "m.safetensors")
    variant = VARIANTS[name]
    assert info.network == {
        "width": 2,
        "blocks": variant["blocks"],
        "downsamplings": 2,
        "norm": variant["norm"],
        "antialias": variant["antialias"],
        "spectral_norm": variant["spectral"],
        "dropout": 0.5 if variant["dropout"] else 0.0,
    }
    assert_close(load_generator(tmp_path / "m.safetensors")(images()), network(images()), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_golden_generator_gives_the_golden_image(golden: Golden, tmp_path: Path) -> None:
    state, tensors = golden_state(golden, "generator_width8")
    info = import_published(written(tmp_path, state), tmp_path / "m.safetensors", mpp=0.466, stain="HER2")
    assert (info.method, info.stain, info.mpp) == ("imported", "HER2", 0.466)
    assert info.extra["imported_from"] == "net.pth"
    found = load_generator(tmp_path / "m.safetensors")(tensors["input"])
    assert_close(found, tensors["output"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_golden_auxiliary_networks_give_the_golden_numbers(golden: Golden, tmp_path: Path) -> None:
    state, tensors = golden_state(golden, "autoencoder_width8")
    info = import_published(written(tmp_path, state), tmp_path / "m.safetensors", kind="autoencoder")
    assert info.kind == "autoencoder"
    found = load_checkpoint(tmp_path / "m.safetensors")[0].eval()(tensors["input"])
    assert_close(found, tensors["output"], atol=1e-5, rtol=0)

    state, tensors = golden_state(golden, "classifier_width8")
    assert import_published(written(tmp_path, state), tmp_path / "m.safetensors").kind == "classifier"
    found = load_checkpoint(tmp_path / "m.safetensors")[0].eval()(tensors["input"])
    assert_close(found, tensors["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: OrderedDict(state),
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"netG.{name}": value for name, value in state.items()}, "epoch": 3},
        lambda state: {"state_dict": {f"netG.{n}": v for n, v in state.items()} | {"netD.0.weight": torch.ones(1)}},
        lambda state: {"netG": {f"module.{name}": value for name, value in state.items()}, "netD": {}},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: state | {"model.2.running_mean": torch.zeros(2), "model.2.running_var": torch.ones(2)},
    ],
    ids=["plain", "module", "state_dict", "with discriminator", "netG", "compiled", "PyTorch before 0.4"],
)
def test_wrappers_are_taken_off(tmp_path: Path, wrap: Callable[[State], Mapping[str, Any]]) -> None:
    network = published("CUT")
    found = load_published(written(tmp_path, wrap(dict(network.state_dict())))).eval()
    with torch.no_grad():
        assert_close(found(images()), network(images()), atol=1e-5, rtol=0)


WRAPPED: dict[str, tuple[Callable[[State], object], str]] = {
    "a name": (lambda state: {"models": {"x": 1}, "A2B": state, "B2A": {"w": torch.ones(1)}}, "A2B"),
    "names inside one another": (lambda state: {"trained": {"A2B": state}, "other": {}}, "trained.A2B"),
    "a name with dots": (lambda state: {"net.v1": {"G": state}}, "net.v1"),
    "what names begin with": (
        lambda state: {f"nets.A.{n}": v for n, v in state.items()} | {"nets.B.w": torch.ones(1)},
        "nets.A",
    ),
    "a name, then what names begin with": (lambda state: {"all": {f"A.{n}": v for n, v in state.items()}}, "all.A"),
    "a wrapper inside": (lambda state: {"A": {f"module.{n}": v for n, v in state.items()}, "B": {"w": 1}}, "A"),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_key_says_where_the_weights_are(tmp_path: Path, case: str) -> None:
    wrap, key = WRAPPED[case]
    network = published("CUT")
    path = written(tmp_path, wrap(dict(network.state_dict())))
    with torch.no_grad():
        assert_close(load_published(path, key=key).eval()(images()), network(images()), atol=1e-5, rtol=0)


def test_a_key_that_is_not_there_and_a_choice_that_nobody_made_name_what_is_there(tmp_path: Path) -> None:
    path = written(tmp_path, {"A2B": changed(), "B2A": changed(), "epoch": 3})
    with pytest.raises(CheckpointError, match=r"nothing under 'netG'; it holds A2B \(\d+ entries\), B2A .*, epoch"):
        load_published(path, key="netG")
    with pytest.raises(CheckpointError, match=r"holds A2B, B2A; name the one"):
        load_published(path)
    assert isinstance(load_published(path, key="B2A"), Generator)


@pytest.mark.parametrize("width", [3_000, 60_000])
def test_a_file_that_claims_more_than_it_holds_is_refused_before_it_takes_memory(tmp_path: Path, width: int) -> None:
    stem = {"model.1.weight": torch.zeros(1, 3, 1, 1).expand(width, 3, 7, 7)}
    blocks = {f"model.{10 + n}.conv_block.1.weight": torch.zeros(1) for n in range(9)}
    with pytest.raises(CheckpointError, match=r"net.pth: model.1.weight has .* more than are in the file"):
        load_published(written(tmp_path, stem | blocks))
    with pytest.raises(CheckpointError, match=r"much larger than the file|cannot be built"):
        load_published(written(tmp_path, {"model.1.weight": torch.zeros(width, 3, 1, 1)} | blocks))


def test_the_checkpoint_does_not_replace_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, changed())
    whole = path.read_bytes()
    with pytest.raises(OutputError, match="is the input file"):
        import_published(path, path)
    assert path.read_bytes() == whole


def changed(**changes: Tensor | None) -> State:
    """A CUT state dict with other values (None: without them); `__` stands for a dot."""
    state: dict[str, Tensor | None] = {**published("CUT").state_dict()}
    state |= {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (Discriminator(2, 3, spectral=False).state_dict(), "holds a discriminator: expected a ResNet generator"),
        ({"mlp_0.0.weight": torch.zeros(4, 4)}, "holds the feature sampler of PatchNCE"),
        ({"model.model.0.weight": torch.zeros(4, 3, 4, 4)}, "holds a U-Net generator"),
        ({"a": torch.zeros(1), "b": torch.zeros(1)}, r"holds 2 tensors \(a, b\)"),
        (torch.zeros(3), "holds a Tensor; expected a state dict"),
        ([torch.zeros(3)], "holds a list; expected a state dict"),
        ({}, "holds nothing; expected a state dict"),
        ({"epoch": 3, "loss": 0.1}, "holds epoch, loss; expected a state dict"),
        (changed(model__1__bias=None), "it lacks model.1.bias"),
        (changed(model__99__bias=torch.zeros(1)), "it has also model.99.bias"),
        (changed(model__4__bias=torch.zeros(9)), "model.4.bias is 9 where the layout .* has 4"),
        (changed(model__7__filt=torch.ones(4, 1, 3, 3)), "model.7.filt, the blur of a resampling, is not"),
        (changed(model__13__conv_block__1__weight=None), "it lacks model.13.conv_block.1.weight"),
        (
            {"model.1.weight": torch.zeros(2, 3, 7, 7), "model.13.conv_block.1.weight": torch.zeros(1)},
            "begin at layer 13",
        ),
    ],
)
def test_what_fits_no_layout_is_refused_with_what_was_found(tmp_path: Path, contents: object, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        import_published(written(tmp_path, contents), tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a pickled \S*Conv2d .* save only the weights"):
        load_published(written(tmp_path, nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize("contents", [b"", b"hello, this is no weight file", b"<!DOCTYPE html>", b"\x80\x04\x95\x00"])
def test_other_files_are_refused(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "net.pth").write_bytes(contents)
    with pytest.raises(CheckpointError, match="is not a PyTorch weight file, or is damaged or cut short"):
        load_published(tmp_path / "net.pth")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_short_is_refused(tmp_path: Path, kept: float, zipped: bool) -> None:
    torch.save(published("CUT").state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "net.pth").read_bytes()
    (tmp_path / "net.pth").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(CheckpointError, match="cut short"):
        load_published(tmp_path / "net.pth")


def test_no_file_a_folder_and_another_archive(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="does not exist; a PyTorch weight file"):
        load_published(tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_published(tmp_path)
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(CheckpointError, match="is not a PyTorch weight file"):
        load_published(tmp_path / "net.pth")


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, published("CUT").state_dict())
    before = torch.get_rng_state()
    assert isinstance(load_published(path), Generator)
    assert torch.equal(torch.get_rng_state(), before)
