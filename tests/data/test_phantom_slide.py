"""A drawn slide is the same whatever windows it is drawn in, half empty as asked, and a pyramid when written."""

from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from restain.cli import app
from restain.data.phantom import PhantomSlide
from restain.errors import ConfigError, OutputError, RestainError
from restain.image import RGB


@pytest.fixture(scope="module")
def slide() -> PhantomSlide:
    return PhantomSlide(seed=2, size_px=256, mpp=1.0)


@pytest.fixture(scope="module")
def whole(slide: PhantomSlide) -> RGB:
    drawn = slide.he(0, 0, 256, 256)
    assert drawn is not None
    return drawn


def coloured(rgb: RGB, glass: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(rgb.astype(int) - glass) > 12).any(axis=2))


def test_windows_fit_together(slide: PhantomSlide, whole: RGB) -> None:
    for x, y, width, height in ((0, 0, 100, 80), (150, 120, 106, 136), (17, 200, 5, 5)):
        part = slide.he(x, y, width, height)
        if part is None:
            part = np.full((height, width, 3), slide.he_glass, np.uint8)
            assert not coloured(whole[y : y + height, x : x + width], slide.he_glass).any()
        else:
            assert np.array_equal(part, whole[y : y + height, x : x + width])


def test_tissue_lies_in_islands_and_covers_what_is_asked(slide: PhantomSlide, whole: RGB) -> None:
    assert coloured(whole, slide.he_glass).mean() == pytest.approx(0.3, abs=0.08)
    glass = [slide.he(x, y, 8, 8) is None for x in range(0, 256, 64) for y in range(0, 256, 64)]
    assert 0.4 < np.mean(glass) < 0.9
    dense = PhantomSlide(seed=2, size_px=256, mpp=1.0, coverage=0.8)
    drawn = dense.he(0, 0, 256, 256)
    assert drawn is not None
    assert coloured(drawn, dense.he_glass).mean() == pytest.approx(0.8, abs=0.12)


def test_the_ihc_shows_the_same_section(slide: PhantomSlide, whole: RGB) -> None:
    ihc = slide.ihc(0, 0, 256, 256)
    assert ihc is not None
    brown = ihc[..., 0].astype(int) - ihc[..., 2] > 40
    assert 0.001 < brown.mean() < 0.2
    assert coloured(whole, slide.he_glass)[brown].mean() > 0.99


def test_seeds_and_markers_differ(slide: PhantomSlide, whole: RGB) -> None:
    assert np.array_equal(PhantomSlide(seed=2, size_px=256, mpp=1.0).he(0, 0, 256, 256), whole)
    other = PhantomSlide(seed=4, size_px=256, mpp=1.0).he(0, 0, 256, 256)
    assert not np.array_equal(other, whole)
    nuclear = PhantomSlide(seed=2, size_px=256, marker="nuclear", mpp=1.0)
    assert np.array_equal(nuclear.he(0, 0, 256, 256), whole)
    assert not np.array_equal(nuclear.ihc(0, 0, 256, 256), slide.ihc(0, 0, 256, 256))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 63}, "at least 64 px"),
        ({"mpp": 3.0}, "expected 0.1 to 2"),
        ({"coverage": 0.0}, "share of tissue, above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PhantomSlide(**{"seed": 0, "size_px": 64, **change})  # type: ignore[arg-type]  # by name


def test_the_command_writes_pyramids_in_register(tmp_path: Path) -> None:
    he, ihc = tmp_path / "he.ome.tif", tmp_path / "ihc.ome.tif"
    words = [
        "phantom",
        "--slide",
        he,
        "--ihc",
        ihc,
        "--size",
        "520",
        "--mpp",
        "1",
        "--seed",
        "1",
        "--marker",
        "nuclear",
    ]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{he}\n{ihc}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"he.ome.tif", "ihc.ome.tif"}
    drawn = PhantomSlide(1, 520, "nuclear", 1.0)
    for path, tile in ((he, drawn.he), (ihc, drawn.ihc)):
        with openslide.OpenSlide(path) as opened:
            assert opened.level_dimensions == ((520, 520), (260, 260))
            assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(1.0)
            found = np.asarray(opened.read_region((0, 0), 0, (520, 520)).convert("RGB")).astype(int)
        expected = tile(0, 0, 520, 520)
        assert expected is not None
        assert np.abs(found - expected).mean() < 3  # of JPEG


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--slide", "s.tif"], OutputError, r"ends in \.ome\.tif"),
        (["--slide", "there.ome.tif"], OutputError, r"there\.ome\.tif exists"),
        (["--slide", "s.ome.tif", "--ihc", "s.ome.tif"], OutputError, "give different files"),
        (["out", "--slide", "s.ome.tif"], ConfigError, "give one or the other"),
        (["out"], ConfigError, "give OUT and --pairs"),
        (["out", "--pairs", "2", "--ihc", "s.ome.tif"], ConfigError, "--ihc.*--slide"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: type[RestainError], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.ome.tif").touch()
    result = CliRunner().invoke(app, ["phantom", *words])
    assert isinstance(result.exception, error)
    with pytest.raises(error, match=message):
        raise result.exception
    assert [path.name for path in tmp_path.iterdir()] == ["there.ome.tif"]
