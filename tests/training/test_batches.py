import shutil
from pathlib import Path

import pytest
import torch

from restain.data.augment import Augment
from restain.data.pairs import Pair, PairedTiles
from restain.errors import ConfigError, InputError
from restain.training.batches import Batches
from restain.training.config import DataConfig
from restain.training.ranks import Ranks

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)


def batches(tiles: Path, batch_size: int, ranks: Ranks = ALONE, loaders: int = 0) -> Batches:
    pairs = PairedTiles(tiles, "train", 16, 3, Augment(), "none")
    return Batches(pairs, DataConfig(batch_size=batch_size, loaders=loaders), 3, ranks)


def images(found: Batches, start: int, stop: int) -> list[tuple[int, Pair]]:
    return list(found.between(start, stop))


def test_an_epoch_shows_each_pair_once_in_an_order_of_its_own(tiles: Path) -> None:
    found = batches(tiles, 2)
    assert found.per_epoch == 4
    epochs = [[index for step in range(4 * e, 4 * e + 4) for index in found.indices(step)[1]] for e in range(3)]
    assert all(sorted(order) == list(range(8)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3
    assert [found.indices(step)[0] for step in (0, 3, 4, 8)] == [0, 0, 1, 2]


def test_what_does_not_fill_a_batch_is_left_out(tiles: Path) -> None:
    found = batches(tiles, 3)
    assert found.per_epoch == 2
    assert len({index for step in range(2) for index in found.indices(step)[1]}) == 6


@pytest.mark.parametrize("count", [2, 4])
def test_the_shares_of_all_processes_joined_are_one_processs_batch(tiles: Path, count: int) -> None:
    alone = dict(images(batches(tiles, 4), 0, 3))
    shares = [dict(images(batches(tiles, 4, Ranks(rank, count, CPU)), 0, 3)) for rank in range(count)]
    for step, pair in alone.items():
        assert torch.equal(torch.cat([share[step].he for share in shares]), pair.he)
        assert torch.equal(torch.cat([share[step].index for share in shares]), pair.index)


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_batch_depends_on_its_step_alone(tiles: Path, loaders: int) -> None:
    whole = dict(images(batches(tiles, 2), 0, 8))
    later = dict(images(batches(tiles, 2, loaders=loaders), 5, 8))
    assert list(later) == [5, 6, 7]
    for step, pair in later.items():
        assert torch.equal(pair.he, whole[step].he)
        assert torch.equal(pair.ihc, whole[step].ihc)


@pytest.mark.parametrize("loaders", [0, 1])
def test_a_damaged_tile_is_one_sentence_wherever_it_is_read(tiles: Path, tmp_path: Path, loaders: int) -> None:
    root = shutil.copytree(tiles, tmp_path / "tiles")
    for tile in (root / "trainA").iterdir():
        tile.write_bytes(tile.read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        images(batches(root, 2, loaders=loaders), 0, 1)
    assert str(root / "trainA") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_global_generator_is_left_alone(tiles: Path) -> None:
    before = torch.random.get_rng_state()
    images(batches(tiles, 2), 0, 2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_cannot_be_shared_evenly_every_process_does_whole(tiles: Path) -> None:
    for rank in range(2):
        assert batches(tiles, 3, Ranks(rank, 2, CPU)).indices(1) == batches(tiles, 3).indices(1)


def test_a_batch_that_cannot_be_filled_is_refused(tiles: Path) -> None:
    with pytest.raises(ConfigError, match=r"only 8 pairs; use at most 8, as in data.batch_size=8"):
        batches(tiles, 9)
