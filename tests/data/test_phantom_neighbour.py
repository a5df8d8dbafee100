"""The neighbouring section lies on its slide as its transform says, with whatever else is put there."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from restain.cli import app
from restain.data.phantom import NeighbourSettings, PhantomNeighbour, PhantomSlide
from restain.errors import ConfigError, OutputError
from restain.image import RGB

SIDE_PX, MPP = 240, 2.0


@pytest.fixture(scope="module")
def slide() -> PhantomSlide:
    return PhantomSlide(seed=3, size_px=SIDE_PX, mpp=MPP, framed=True)


def drawn(neighbour: PhantomNeighbour) -> RGB:
    found = neighbour.ihc(0, 0, *neighbour.size)
    assert found is not None
    return found


def stained(rgb: RGB, glass: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(rgb.astype(int) - glass) > 12).any(axis=2))


@pytest.mark.parametrize(
    "settings",
    [
        NeighbourSettings(angle=0, bend_um=0, depth_um=0),
        NeighbourSettings(angle=70, bend_um=15, mirror=True, scale=1.3, mpp=2.2),
        NeighbourSettings(angle=-160, bend_um=10, scale=0.6, mpp=1.0),
    ],
)
def test_tissue_lies_where_the_transform_takes_it(slide: PhantomSlide, settings: NeighbourSettings) -> None:
    neighbour = PhantomNeighbour(slide, settings)
    he = slide.he(0, 0, SIDE_PX, SIDE_PX)
    assert he is not None
    on_he = stained(he, slide.he_glass)
    on_ihc = stained(drawn(neighbour), neighbour.glass)
    rows, columns = np.mgrid[0:SIDE_PX:5, 0:SIDE_PX:5]
    places = (np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5) * MPP
    x, y = np.floor(neighbour.he_to_ihc(places) / neighbour.mpp).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < neighbour.size[0]) & (y < neighbour.size[1])
    assert inside.mean() > 0.9
    there = on_ihc[y[inside], x[inside]]
    agreement = np.corrcoef(on_he[rows.ravel(), columns.ravel()][inside], there)[0, 1]
    shifted = np.corrcoef(on_he[rows.ravel(), columns.ravel() - 45][inside], there)[0, 1]
    assert agreement > 0.75
    assert shifted < 0.5


def test_there_and_back_again(slide: PhantomSlide) -> None:
    neighbour = PhantomNeighbour(slide, NeighbourSettings(angle=33, bend_um=60, mirror=True, scale=0.7, mpp=1.0))
    places = np.random.default_rng(0).uniform(0, SIDE_PX * MPP, (50, 2))
    np.testing.assert_allclose(neighbour.ihc_to_he(neighbour.he_to_ihc(places)), places, atol=1e-3)
    assert 15 < np.hypot(*neighbour.bend(places).T).max() < 100


def test_windows_of_the_neighbour_fit_together(slide: PhantomSlide) -> None:
    neighbour = PhantomNeighbour(slide, NeighbourSettings(angle=20, control=True, pen=True, black_edge=True))
    whole = drawn(neighbour)
    for x, y, width, height in ((0, 0, 150, 90), (150, 90, 106, 106), (100, 100, 120, 5)):
        part = neighbour.ihc(x, y, width, height)
        expected = whole[y : y + height, x : x + width].astype(int)
        found = np.full_like(expected, neighbour.glass) if part is None else part.astype(int)
        on_tissue = expected.max(axis=2) < 225  # on bare glass the camera's noise may be missing
        assert np.abs(found - expected).max() <= 8
        assert np.abs(found - expected)[on_tissue].mean() < 0.5


def test_what_else_lies_on_the_slide(slide: PhantomSlide) -> None:
    plain = PhantomNeighbour(slide, NeighbourSettings(angle=0))
    control = PhantomNeighbour(slide, NeighbourSettings(angle=0, control=True))
    strip = control.size[0] - plain.size[0]
    assert strip > 0.1 * plain.size[0]
    piece = stained(drawn(control), control.glass)
    assert piece[:, :strip].any()
    np.testing.assert_array_equal(drawn(control)[:, strip:].shape, drawn(plain).shape)
    black = drawn(PhantomNeighbour(slide, NeighbourSettings(angle=0, black_edge=True)))
    assert 0.01 < (black.max(axis=2) < 20).mean() < 0.15
    pen = drawn(PhantomNeighbour(slide, NeighbourSettings(angle=0, pen=True)))
    assert 0.01 < (pen.astype(int) != drawn(plain)).any(axis=2).mean() < 0.4


def test_landmarks_lie_in_tissue_of_both(slide: PhantomSlide) -> None:
    neighbour = PhantomNeighbour(slide, NeighbourSettings(angle=100))
    he, ihc = neighbour.landmarks(12)
    assert 4 < len(he) <= 12
    np.testing.assert_allclose(neighbour.he_to_ihc(he), ihc)
    rgb = slide.he(0, 0, SIDE_PX, SIDE_PX)
    assert rgb is not None
    tissue = stained(rgb, slide.he_glass)
    for x, y in np.floor(he / MPP).astype(int):
        assert tissue[y - 3 : y + 4, x - 3 : x + 4].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 5.0}, "scale 5: expected 0.25 to 4"),
        ({"bend_um": 300.0}, "or tissue would fold"),
        ({"mpp": 4.0}, "expected 0.1 to 2"),
        ({"depth_um": -1.0}, "expected 0 to 100"),
    ],
)
def test_impossible_neighbours_are_refused(slide: PhantomSlide, change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PhantomNeighbour(slide, NeighbourSettings(**change))  # type: ignore[arg-type]  # by name


def test_the_command_writes_both_slides_and_the_truth(tmp_path: Path) -> None:
    from restain.registration.landmarks import landmark_error, read_landmarks
    from restain.registration.transform import load_transform
    from restain.slides.reader import open_slide

    he, ihc = tmp_path / "he.ome.tif", tmp_path / "ihc.ome.tif"
    words = ["phantom", "--slide", he, "--neighbour", ihc, "--size", 200, "--mpp", 2, "--turn", 50, "--bend", 10,
             "--mirror", "--neighbour-mpp", 1.5, "--scale", 1.2]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    found = load_transform(tmp_path / "ihc.transform.json")
    assert found.angle == pytest.approx(50)
    assert found.scale == pytest.approx(1.2)
    assert found.is_mirrored
    for path, scan in ((he, found.he), (ihc, found.ihc)):
        with open_slide(path) as slide:
            assert (slide.size, slide.mpp) == (scan.size, pytest.approx(scan.mpp))
    anhir = [tmp_path / "ihc.landmarks-he.csv", tmp_path / "ihc.landmarks-ihc.csv"]
    for files in (anhir, [tmp_path / "ihc.landmarks.csv"]):
        error = landmark_error(found, read_landmarks(files, found.he, found.ihc))
        assert error.um.max() < 0.1


def test_a_run_stopped_between_two_slides_resumes_and_other_slides_are_not_touched(tmp_path: Path) -> None:
    he, ihc = tmp_path / "he.ome.tif", tmp_path / "ihc.ome.tif"
    words = ["phantom", "--slide", str(he), "--neighbour", str(ihc), "--size", "100", "--mpp", "2", "--bend", "5"]
    assert CliRunner().invoke(app, words).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ihc.unlink()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "he.ome.tif" in result.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    other = CliRunner().invoke(app, [*words, "--seed", "5"])
    assert isinstance(other.exception, OutputError)
    assert "he.ome.tif exists" in str(other.exception)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
