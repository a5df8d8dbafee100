"""InstanSeg's package with a network that stands in for its own, whose weights are not at hand."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from restain.cli import app
from restain.errors import InputError
from restain.image import save_image
from restain.quantify import QuantifySettings, quantify_image
from restain.quantify.instanseg import load_instanseg


class Quadrants(nn.Module):
    """Labels what is dark, 1 to 4 by quadrant; called as the published models are, at their resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.pixel_size = 0.5
        self.cells_and_nuclei = False

    def forward(self, image: Tensor, target_segmentation: Tensor) -> Tensor:
        assert image.shape[2] == 48, "resampled to the model's resolution"
        rows = torch.arange(image.shape[2]).unsqueeze(1) >= image.shape[2] // 2
        columns = torch.arange(image.shape[3]).unsqueeze(0) >= image.shape[3] // 2
        labels = 1 + 2 * rows.float() + columns.float()
        return labels * (image.mean(1, keepdim=True) < 0.5)


CENTRES = [(24, 24), (24, 72), (72, 40)]


@pytest.fixture
def rgb() -> np.ndarray:
    """Blue discs on white, 96 x 112 px."""
    y, x = np.mgrid[:96, :112]
    nuclei = np.min([np.hypot(y - row, x - column) for row, column in CENTRES], axis=0) < 9
    return np.where(nuclei[..., None], (70, 60, 140), 255).astype(np.uint8)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_nuclei_come_back_where_they_are_at_any_resolution(
    rgb: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("instanseg")
    (tmp_path / "quadrants").mkdir()
    torch.jit.script(Quadrants()).save(tmp_path / "quadrants" / "instanseg.pt")
    monkeypatch.setenv("INSTANSEG_BIOIMAGEIO_PATH", str(tmp_path))
    found = quantify_image(rgb, QuantifySettings(0.25, "nuclear", segmenter=load_instanseg("quadrants", "cpu")(0.25)))
    assert found.labels.shape == (96, 112)
    assert found.labels.dtype == np.int32
    places = sorted(zip(found.cells.y.tolist(), found.cells.x.tolist(), strict=True))
    np.testing.assert_allclose(places, CENTRES, atol=1)
    np.testing.assert_allclose(found.cells.area_um2, np.pi * (9 * 0.25) ** 2, rtol=0.15)


def test_without_the_package_the_way_out_is_said(
    rgb: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "instanseg", None)
    save_image(tmp_path / "a.png", rgb)
    options = ["--out", str(tmp_path / "out"), "--marker", "nuclear", "--mpp", "0.5", "--nuclei", "instanseg"]
    result = CliRunner().invoke(app, ["quantify", str(tmp_path / "a.png"), *options])
    assert result.exit_code == 1
    assert "pip install 'restain[instanseg]'" in str(result.exception)


def test_weights_that_cannot_be_had_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("instanseg")
    monkeypatch.setenv("INSTANSEG_BIOIMAGEIO_PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"model nobodys cannot be loaded .* INSTANSEG_BIOIMAGEIO_PATH"):
        load_instanseg("nobodys")


def test_a_model_that_is_missing_is_told_once_and_in_whole_words(
    rgb: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("unreachable " * 30)

    monkeypatch.setitem(sys.modules, "instanseg", SimpleNamespace(InstanSeg=refuse))
    for name in "ab":
        save_image(tmp_path / "in" / f"{name}.png", rgb)
    options = ["--out", str(tmp_path / "out"), "--marker", "nuclear", "--mpp", "0.5", "--nuclei", "instanseg"]
    result = CliRunner().invoke(app, ["quantify", str(tmp_path / "in"), *options])
    words = str(result.exception)
    assert words.startswith("InstanSeg's model brightfield_nuclei cannot be loaded (unreachable ")
    assert "unreachable …)" in words
    assert not (tmp_path / "out").exists(), "nothing was begun"
