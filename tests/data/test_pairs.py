"""Paired tiles: the same window for both stains, the same item every time, and every fault named before training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from restain.data.augment import Augment
from restain.data.nuclei import NuclearMaps
from restain.data.pairs import Pair, PairedTiles, collate, epoch_order
from restain.errors import InputError, ShapeError
from restain.image import to_tensor

WriteTile = Callable[..., np.ndarray]


@pytest.fixture
def root(tmp_path: Path, write_tile: WriteTile) -> Path:
    """Six training pairs and two held-out ones, in which both stains show the same, so that windows can be compared."""
    for part, count in (("train", 6), ("val", 2)):
        for i in range(count):
            for side in "AB":
                write_tile(tmp_path / f"{part}{side}" / f"{i}_{i % 3 + 1}+.png", size=(24, 20), seed=i)
    return tmp_path


def assert_same(one: Pair, other: Pair) -> None:
    for name in ("he", "ihc", "grade", "index"):
        assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
    assert one.names == other.names


def test_it_says_what_it_found(root: Path) -> None:
    train = PairedTiles(root, "train")
    assert (len(train), train.layout.name, train.names[0]) == (6, "MIST", "0_1+")
    assert train.describe() == (
        f"{root}: MIST layout, 6 pairs of 24 x 20 px in trainA and trainB; "
        "grades from the file names: 0 of 0, 2 of 1+, 2 of 2+, 2 of 3+"
    )
    assert "; its val part serves as test;" in PairedTiles(root, "test").describe()


def test_it_says_that_a_set_without_parts_is_whole(tmp_path: Path, write_tile: WriteTile) -> None:
    for side in ("HE", "IHC"):
        write_tile(tmp_path / side / "a_2+.png")
    assert "it has no train and val parts, so every split is the whole set" in PairedTiles(tmp_path, "val").describe()


def test_whole_tiles_are_the_files(root: Path, write_tile: WriteTile) -> None:
    pair = PairedTiles(root, "val")[1]
    assert_close(pair.ihc, to_tensor(write_tile(root.parent / "copy.png", size=(24, 20), seed=1)))
    assert (pair.he.shape, pair.grade.tolist(), pair.index.tolist(), pair.names) == (
        (1, 3, 20, 24),
        [2],
        [1],
        ("1_2+",),
    )


def test_without_augmentation_the_middle_is_cut_out(root: Path) -> None:
    whole, middle = PairedTiles(root)[3], PairedTiles(root, crop_px=8).item(3, epoch=5)
    assert_close(middle.he, whole.he[:, :, 6:14, 8:16])
    assert_close(middle.ihc, whole.ihc[:, :, 6:14, 8:16])


@given(st.integers(0, 5), st.integers(0, 100))
def test_both_stains_get_one_window_and_the_same_flips(root: Path, index: int, epoch: int) -> None:
    uncoloured = Augment(brightness=0, contrast=0, saturation=0)
    tiles = PairedTiles(root, crop_px=8, augment=uncoloured)
    pair = tiles.item(index, epoch)
    assert_close(pair.he, pair.ihc)  # both stains show the same in this set
    coloured = PairedTiles(root, crop_px=8, augment=Augment()).item(index, epoch)
    assert_close(coloured.ihc, pair.ihc)
    assert (coloured.he != coloured.ihc).any()


def test_tiles_are_resized_whole_before_they_are_cropped(tmp_path: Path, write_tile: WriteTile) -> None:
    for side in ("he", "ihc"):
        write_tile(tmp_path / side / "a.png", size=(32, 32))
    whole = PairedTiles(tmp_path, resize_px=16)
    assert (whole.scale, whole.sizes) == (0.5, [(16, 16)])
    assert "16 x 16 (resized from 32) px" in whole.describe()
    with Image.open(tmp_path / "he" / "a.png") as image:
        small = np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC))
    assert_close(whole[0].he, to_tensor(small))
    assert_close(PairedTiles(tmp_path, crop_px=8, resize_px=16)[0].ihc, whole[0].ihc[..., 4:12, 4:12])
    with pytest.raises(InputError, match="smaller than the crop of 20 px"):
        PairedTiles(tmp_path, crop_px=20, resize_px=16)


def test_only_squares_of_one_size_are_resized(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="24 x 20 px, but only squares"):
        PairedTiles(root, resize_px=16)


def test_an_unpaired_ihc_is_any_tile_at_any_place(root: Path) -> None:
    plain = Augment(brightness=0, contrast=0, saturation=0)
    paired = PairedTiles(root, crop_px=8, augment=plain, grades="none")
    tiles = PairedTiles(root, crop_px=8, augment=plain, grades="none", unpaired=True)
    whole = PairedTiles(root, grades="none")
    everywhere = [{as_bytes(crop) for crop in windows(whole[i].ihc, 8)} for i in range(len(whole))]
    drawn = []
    for epoch in range(40):
        for i in range(len(tiles)):
            one = tiles.item(i, epoch)
            assert_close(one.he, paired.item(i, epoch).he)
            assert_same(one, tiles.item(i, epoch))
            (tile,) = (j for j, crops in enumerate(everywhere) if as_bytes(one.ihc) in crops)
            drawn.append((i, tile))
    counts = [drawn.count((i, tile)) for i in range(6) for tile in range(6)]
    assert sum(counts) == 240
    assert min(counts) >= 1, "any tile serves any H&E"
    assert max(counts) <= 17, "none is preferred: 240 / 36 = 6.7 on average"


def windows(images: Tensor, side: int) -> list[Tensor]:
    """All crops, as they are and mirrored left to right."""
    cut = (
        images.unfold(2, side, 1)
        .unfold(3, side, 1)
        .permute(2, 3, 0, 1, 4, 5)
        .reshape(-1, *images.shape[:2], side, side)
    )
    return [*cut, *cut.flip(-1)]


def as_bytes(images: Tensor) -> bytes:
    return images.numpy().tobytes()


def test_unpaired_halves_of_one_file(tmp_path: Path, write_tile: WriteTile) -> None:
    sides = [to_tensor(write_tile(tmp_path / f"{name}.png", size=(32, 16))).split(16, dim=3) for name in "ab"]
    tiles = PairedTiles(tmp_path, grades="none", unpaired=True)
    drawn = set()
    for epoch in range(20):
        for index in (0, 1):
            pair = tiles.item(index, epoch)
            assert_close(pair.he, sides[index][0])
            drawn |= {(index, other) for other in (0, 1) if torch.equal(pair.ihc, sides[other][1])}
    assert drawn == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_unpaired_whole_tiles_must_have_one_size(tmp_path: Path, write_tile: WriteTile) -> None:
    for side in "AB":
        write_tile(tmp_path / f"train{side}" / "a.png", size=(16, 16))
        write_tile(tmp_path / f"train{side}" / "b.png", size=(24, 16))
    with pytest.raises(InputError, match=r"a.png is 16 x 16 px but .*b.png is 24 x 16.*set a crop"):
        PairedTiles(tmp_path, grades="none", unpaired=True)
    assert len(PairedTiles(tmp_path, grades="none")) == 2
    assert len(PairedTiles(tmp_path, crop_px=16, grades="none", unpaired=True)) == 2


@pytest.mark.parametrize("unpaired", [False, True])
def test_a_density_is_cropped_and_mirrored_as_its_ihc(root: Path, unpaired: bool) -> None:
    """The map of a tile is made by hand here, from its red channel, so that it can be told in the crop."""
    maps = NuclearMaps(root / "maps", nucleus_px=13)
    for i in range(6):
        with Image.open(root / "trainB" / f"{i}_{i % 3 + 1}+.png") as image:
            path = root / "maps" / f"{i}_{i % 3 + 1}+.png"
            path.parent.mkdir(exist_ok=True)
            image.getchannel("R").save(path)
    tiles = PairedTiles(root, crop_px=8, augment=Augment(), grades="none", unpaired=unpaired, nuclei=maps)
    items = [tiles.item(i, epoch) for i in range(6) for epoch in range(5)]
    for one in items:
        assert one.density is not None
        assert_close(one.density, (one.ihc[:, :1] + 1) / 2)
    both = collate(items[:2])
    assert both.density is not None
    assert both.density.shape == (2, 1, 8, 8)
    assert PairedTiles(root, crop_px=8, grades="none").item(0, 0).density is None


def test_windows_change_with_seed_epoch_and_index(tmp_path: Path, write_tile: WriteTile) -> None:
    for side in "AB":
        for name in "ab":
            write_tile(tmp_path / f"train{side}" / f"{name}_1+.png", size=(64, 64), seed=0)
    tiles = PairedTiles(tmp_path, crop_px=8, augment=Augment())
    first = tiles.item(0, 0).ihc
    assert (tiles.item(0, 1).ihc != first).any()
    assert (tiles.item(1, 0).ihc != first).any()
    assert (PairedTiles(tmp_path, crop_px=8, augment=Augment(), seed=1).item(0, 0).ihc != first).any()


def test_an_item_does_not_depend_on_what_was_read_before(root: Path) -> None:
    tiles = PairedTiles(root, crop_px=8, augment=Augment(), seed=7)
    forwards = [tiles.item(i, epoch) for epoch in range(2) for i in range(len(tiles))]
    torch.manual_seed(123)
    other = PairedTiles(root, crop_px=8, augment=Augment(), seed=7)
    backwards = [other.item(i, epoch) for epoch in (1, 0) for i in reversed(range(len(other)))]
    for one, two in zip(forwards, reversed(backwards), strict=True):
        assert_same(one, two)


def test_workers_change_nothing(root: Path) -> None:
    tiles = PairedTiles(root, crop_px=8, augment=Augment())
    with_workers = DataLoader(tiles, batch_size=2, num_workers=2, collate_fn=collate)
    for batch, start in zip(with_workers, range(0, 6, 2), strict=True):
        assert_same(batch, collate([tiles[start], tiles[start + 1]]))


def test_reading_leaves_the_global_generators_alone(root: Path) -> None:
    before = torch.get_rng_state()
    PairedTiles(root, crop_px=8, augment=Augment()).item(0, 0)
    assert (torch.get_rng_state() == before).all()


def test_side_by_side_files_give_their_halves(tmp_path: Path, write_tile: WriteTile) -> None:
    both = to_tensor(write_tile(tmp_path / "a.png", size=(32, 16)))
    pair = PairedTiles(tmp_path, grades="none")[0]
    assert_close(pair.he, both[..., :16])
    assert_close(pair.ihc, both[..., 16:])
    assert "in ., H&E left and IHC right in each image" in PairedTiles(tmp_path, grades="none").describe()


# -------------------------------------------------------------------------------------------------------------- grades


def paint(root: Path, part: str, shares: list[float]) -> None:
    for i, share in enumerate(shares):
        for side in "AB":
            rgb = np.full((20, 20, 3), 245, dtype=np.uint8)
            rgb[: round(20 * share)] = (120, 70, 30)
            path = root / f"{part}{side}" / f"tile{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgb).save(path)


def test_grades_are_measured_where_names_have_none(tmp_path: Path) -> None:
    paint(tmp_path, "train", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    paint(tmp_path, "val", [0.8, 0.0, 0.8])
    assert PairedTiles(tmp_path, "train").grades == [0, 0, 1, 1, 2, 2, 3, 3]
    held_out = PairedTiles(tmp_path, "val")
    assert [held_out[i].grade.item() for i in range(3)] == [3, 0, 3]  # by the limits of the training part
    assert "by quartiles of the DAB-positive fraction of the training IHC: 1 of 0" in held_out.describe()


def test_grades_that_nobody_asks_for_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path, "train", [0.5])
    monkeypatch.setattr("restain.data.partners.load_image", None)
    tiles = PairedTiles(tmp_path, grades="none")
    assert tiles.grades == [-1]
    assert tiles.describe().endswith("trainA and trainB")


def test_graded_names_in_one_part_alone_are_not_mixed_with_measured_ones(tmp_path: Path, write_tile: WriteTile) -> None:
    paint(tmp_path, "train", [0.1, 0.9])
    for side in "AB":
        write_tile(tmp_path / f"val{side}" / "a_3+.png")
    assert "by quartiles" in PairedTiles(tmp_path, "val").describe()


def test_grades_cannot_be_derived_without_a_training_part(tmp_path: Path) -> None:
    paint(tmp_path, "val", [0.5])
    with pytest.raises(InputError, match="no train part and no grades in its file names"):
        PairedTiles(tmp_path, "val")
    assert len(PairedTiles(tmp_path, "val", grades="none")) == 1


# -------------------------------------------------------------------------------------------------------------- faults


def test_a_damaged_header_is_found_before_training(root: Path) -> None:
    (root / "trainB" / "4_2+.png").write_text("not an image")
    with pytest.raises(InputError, match=r"trainB/4_2\+.png is not a PNG"):
        PairedTiles(root)


def test_sides_of_different_size_are_found_before_training(root: Path, write_tile: WriteTile) -> None:
    write_tile(root / "trainB" / "4_2+.png", size=(24, 24))
    with pytest.raises(InputError, match=r"trainA/4_2\+.png is 24 x 20 px but .*trainB/4_2\+.png is 24 x 24 px"):
        PairedTiles(root)


def test_a_crop_larger_than_a_tile_names_the_tile(root: Path) -> None:
    assert PairedTiles(root, crop_px=20)[0].he.shape == (1, 3, 20, 20)
    with pytest.raises(InputError, match=r"trainA/0_1\+.png is 24 x 20 px, smaller than the crop of 21 px"):
        PairedTiles(root, crop_px=21)
    with pytest.raises(InputError, match="at least 1"):
        PairedTiles(root, crop_px=0)


def test_a_file_cut_short_is_named_when_it_is_read(root: Path) -> None:
    path = root / "trainA" / "2_3+.png"
    path.write_bytes(path.read_bytes()[:200])
    tiles = PairedTiles(root)
    with pytest.raises(InputError, match=r"2_3\+.png is damaged or cut short"):
        tiles.item(2, 0)


def test_checking_a_data_set_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert len(PairedTiles(root, crop_px=8)) == 6


# ------------------------------------------------------------------------------------------------------------- batches


def test_a_batch_is_its_pairs_in_order(root: Path) -> None:
    tiles = PairedTiles(root, crop_px=8)
    batch = collate([tiles[4], tiles[1]])
    assert (batch.index.tolist(), batch.grade.tolist(), batch.names) == ([4, 1], [2, 2], ("4_2+", "1_2+"))
    assert_close(batch.he[1:], tiles[1].he)


def test_tiles_of_different_size_cannot_share_a_batch(root: Path, write_tile: WriteTile) -> None:
    for side in "AB":
        write_tile(root / f"train{side}" / "5_3+.png", size=(32, 32))
    tiles = PairedTiles(root)
    assert "6 pairs of 24 x 20 to 32 x 32 px" in tiles.describe()
    with pytest.raises(ShapeError, match=r"0_1\+ is 24 x 20 px but 5_3\+ is 32 x 32 px"):
        collate([tiles[0], tiles[5]])


def test_moving_a_batch_keeps_its_index_on_the_cpu(root: Path) -> None:
    moved = PairedTiles(root)[0].to("meta", memory_format=torch.channels_last)
    assert (moved.he.device.type, moved.grade.device.type, moved.index.device.type) == ("meta", "meta", "cpu")
    assert moved.ihc.is_contiguous(memory_format=torch.channels_last)


@given(st.integers(1, 50), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_visits_each_place_once(length: int, seed: int, epoch: int) -> None:
    order = epoch_order(length, seed, epoch)
    assert sorted(order) == list(range(length))
    assert order == epoch_order(length, seed, epoch)


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = [epoch_order(20, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


# ----------------------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("colon-panck", "train", "MIST layout, 208 pairs of 512 x 512 px in trainA and trainB"),
        ("colon-panck", "val", "MIST layout, 51 pairs of 512 x 512 px in valA and valB"),
        ("bci-her2", "test", "plain layout, 4 pairs of 1024 x 1024 px in HE and IHC"),
        ("mist-her2", "train", "plain layout, 3 pairs of 1024 x 1024 px in HE and IHC"),
    ],
)
def test_real_data_sets_are_found(shared: Path, name: str, split: str, words: str) -> None:
    tiles = PairedTiles(shared / "data" / name, split, crop_px=256, augment=Augment())  # type: ignore[arg-type]  # a split
    assert words in tiles.describe()
    assert tiles[0].he.shape == (1, 3, 256, 256)
