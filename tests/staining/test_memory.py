"""What a pass of the network takes is bounded: tiles and batches are made smaller, statistics do not pile up."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restain.errors import InputError
from restain.networks.generator import Generator, GeneratorConfig
from restain.slides.reader import open_slide
from restain.slides.tiling import Box
from restain.staining import plan
from restain.staining.dense import dense_statistics
from restain.staining.model import load_model
from restain.staining.plan import PASS_BYTES, fitting_tile, most_px, plan_of
from restain.staining.policies import DenseNorm, SharedNorm, SlideNorm, TileNorm
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide

MakeSlide = Callable[..., Path]


@given(sixteens=st.integers(1, 600), halo_px=st.integers(0, 200), most=st.integers(10_000, 10_000_000))
def test_a_tile_is_halved_until_its_window_fits_and_no_further(sixteens: int, halo_px: int, most: int) -> None:
    tile_px = fitting_tile(16 * sixteens, halo_px, most)
    assert tile_px % 16 == 0
    assert tile_px == 16 or (tile_px + 2 * halo_px) ** 2 <= most or tile_px < 32
    assert tile_px == 16 * sixteens or (2 * tile_px + 16 + 2 * halo_px) ** 2 > most or tile_px <= 16


def test_tiles_are_larger_where_the_network_is_narrow_or_folded() -> None:
    wide, narrow = (Generator(GeneratorConfig(width=width, blocks=1)) for width in (64, 16))
    assert most_px(narrow, SlideNorm()) // most_px(wide, SlideNorm()) == 4
    assert most_px(wide, DenseNorm()) < most_px(wide, TileNorm()) < most_px(wide, SlideNorm())
    batch = Generator(GeneratorConfig(width=16, blocks=1, norm="batch"))
    assert most_px(batch, DenseNorm()) == most_px(narrow, SlideNorm()), "batch norms are always folded"
    assert fitting_tile(512, 72, most_px(wide, TileNorm())) == 512
    assert fitting_tile(4096, 72, most_px(Generator(), SharedNorm({}))) == 512
    assert most_px(wide, SlideNorm()) * 64 * 23 <= PASS_BYTES


def test_a_tile_too_large_for_the_memory_is_made_smaller_and_gives_the_same_pixels(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, he = load_model(checkpoint), make_slide()
    small = SlideSettings(tile_px=160, batch=1)  # windows of 224 px: no layer sees so little that batches matter
    stain_slide(model, he, tmp_path / "small.ome.tif", small)
    monkeypatch.setattr(plan, "most_px", lambda *_: 60_000)  # 244 px square, so that 320 does not fit
    report = stain_slide(model, he, tmp_path / "large.ome.tif", replace(small, tile_px=320, batch=8))
    assert any("tiles of 160 px: those of 320 px would take more than 1.2 GB" in note for note in report.notes)
    with open_slide(tmp_path / "small.ome.tif") as first, open_slide(tmp_path / "large.ome.tif") as second:
        assert np.array_equal(first.read((0, 0), first.size, 8.0), second.read((0, 0), second.size, 8.0))


def test_a_million_tiles_are_too_many(checkpoint: Path, make_slide: MakeSlide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restain.staining.plan._MOST_TILES", 100)
    with open_slide(make_slide()) as slide:
        for tile_px in (64, 52 // 16 * 16 + 16):
            plan_of(load_model(checkpoint), slide, SlideSettings(tile_px=tile_px))
        with pytest.raises(InputError, match=r"million tiles of 16 px, in which tiles of 48 px .* multiple of 64"):
            plan_of(load_model(checkpoint), slide, SlideSettings(tile_px=48))


def test_a_margin_that_takes_much_memory_and_changes_nothing_is_refused(
    checkpoint: Path, make_slide: MakeSlide
) -> None:
    model = load_model(checkpoint)
    with open_slide(make_slide()) as slide:
        with pytest.raises(InputError, match=r"halo of 100000 px: .*more than 1.2 GB"):
            plan_of(model, slide, SlideSettings(halo_px=100_000))
        plan_of(model, slide, SlideSettings(halo_px=2 * model.generator.halo_px))


def test_dense_statistics_do_not_grow_with_the_slide() -> None:
    network = Generator(GeneratorConfig(width=1, blocks=1)).eval()
    seen: list[Box] = []

    def read(box: Box) -> np.ndarray:
        seen.append(box)
        return np.random.default_rng(box.x + box.y).integers(0, 256, (box.height, box.width, 3), dtype=np.uint8)

    grid = dense_statistics(network, (16 * 70, 16 * 40), read, tile_px=16)
    assert len(grid.x) == 24  # every third of 70
    assert len(grid.y) == 14
    assert grid.mean["stages.stem.1"].shape == (1, 14, 24)
    assert {(box.width, box.height) for box in seen} == {(16, 16)}
    assert [box.x for box in seen[:3]] == [16, 64, 112]
    assert grid.x[:3].tolist() == [24, 72, 120]
