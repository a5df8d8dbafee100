"""An exported generator computes what the generator does, at sizes that it was not exported at."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from restain.checkpoint import fold_spectral_norm
from restain.checkpoint.onnx import GREY_LEVEL, TOLERANCE, export_onnx
from restain.errors import CheckpointError
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.unet import UNet, UNetConfig


@pytest.fixture(scope="module")
def generator() -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Generator(GeneratorConfig(width=2, blocks=1, spectral_norm=False)).eval().requires_grad_(False)


def test_any_size_gives_what_pytorch_gives(generator: Generator, tmp_path: Path) -> None:
    assert export_onnx(generator, tmp_path / "g.onnx") <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx")
    he = torch.rand(3, 3, 40, 132) * 2 - 1
    (virtual,) = session.run(None, {"he": he.numpy()})
    assert np.abs(virtual - generator(he).numpy()).max() <= 1e-4


def test_a_unet_is_exported_for_sides_that_fit_it(tmp_path: Path) -> None:
    assert export_onnx(UNet(UNetConfig(width=1, depth=3)).eval().requires_grad_(False), tmp_path / "g.onnx") <= 1e-4


def test_rounding_that_spectral_norm_raises_is_no_difference(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = fold_spectral_norm(Generator(GeneratorConfig(width=16, blocks=2)).eval()).requires_grad_(False)
    assert TOLERANCE < export_onnx(fresh, tmp_path / "g.onnx") < GREY_LEVEL / 4


class Paler(nn.Module):
    """Hardly a generator, and soon exported."""

    multiple = 1

    def forward(self, he: Tensor) -> Tensor:
        return he / 2


def test_a_wrong_export_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda _, __, feeds: [feeds["he"] * 0.99])
    with pytest.raises(CheckpointError, match="differs from PyTorch"):
        export_onnx(Paler(), tmp_path / "g.onnx")  # type: ignore[arg-type]  # what it needs of a Stainer
    assert not list(tmp_path.iterdir())
