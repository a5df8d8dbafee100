from pathlib import Path

import torch
from torch import Tensor

from restain.data.pairs import Pair
from restain.image import load_image
from restain.methods.reconstruct import Reconstruct, ReconstructConfig
from restain.training.samples import CELL_PX, GAP_PX, LABEL_PX, save_samples


class Colours(Reconstruct):
    """Two columns of plain colour."""

    def sample(self, pair: Pair) -> dict[str, Tensor]:
        assert not self.training
        return {"white": torch.ones_like(pair.he), "black": -torch.ones_like(pair.he)}


def pair(side: int, count: int = 2) -> Pair:
    images = torch.zeros(count, 3, side, side)
    return Pair(images, images, torch.zeros(count), torch.arange(count), ("a", "b"))


def test_columns_are_the_samples_rows_the_pairs(tmp_path: Path) -> None:
    for side, cell in ((64, CELL_PX), (300, CELL_PX), (100, 200)):
        save_samples(tmp_path / "grid.png", Colours(ReconstructConfig(width=1)), pair(side))
        grid = load_image(tmp_path / "grid.png")
        assert grid.shape == (LABEL_PX + 2 * cell + GAP_PX, 2 * cell + GAP_PX, 3)
        left, right = grid[LABEL_PX:, :cell], grid[LABEL_PX : LABEL_PX + cell, cell + GAP_PX :]
        assert (left == 255).all()
        assert (right == 0).all()
        assert (grid[:LABEL_PX, :cell] < 128).any()  # a label


def test_the_weights_stay_as_they_are(tmp_path: Path) -> None:
    method = Reconstruct(ReconstructConfig(width=1))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    save_samples(tmp_path / "grid.png", method, pair(16))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
