"""A data set cut from slides: in register, above the bar, the same after any stop, and whole but for what failed."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from restain.cli import app
from restain.data.layouts import find_layout
from restain.errors import OutputError
from restain.image import RGB, load_image
from restain.registration.cut import cut_slides
from restain.registration.data_set import CutJob, cut_data_set
from restain.registration.jobs import SlidePair, one_pair
from restain.registration.slides import Demands
from restain.registration.tiling import CutSettings, tile_fit
from tests.registration.islands import MPP, Islands, turned

SaveSlide = Callable[[str, RGB], Path]
SETTINGS = CutSettings(mpp=MPP, size_px=64, step_px=64, least_tissue=0.7)
DEMANDS = Demands(mirror=False, any_scale=False)


@pytest.fixture
def pair(islands: Islands, save_slide: SaveSlide) -> SlidePair:
    return one_pair(save_slide("he", islands.he()), save_slide("ihc", islands.ihc(turned(30).inverse)))


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class StopError(Exception):
    """Stands for the end of a process."""


def test_tiles_are_in_register_and_the_same_after_a_stop(pair: SlidePair, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    report = cut_slides(pair, whole, SETTINGS, DEMANDS)
    assert report.kept >= 5
    assert report.kept + sum(report.left_out.values()) == report.tiles
    for he in sorted((whole / "TrainValAB" / "trainA").iterdir()):
        ihc = whole / "TrainValAB" / "trainB" / he.name
        fit = tile_fit(load_image(he), load_image(ihc), MPP, 12.0)
        assert fit.blocks > 0
        assert fit.residual_um < 6

    def stop(doing: str, done: int, total: int) -> None:
        if doing == "tiles" and done == 3:
            raise StopError

    with pytest.raises(StopError):
        cut_slides(pair, stopped, SETTINGS, DEMANDS, on_progress=stop)
    with (stopped / "slides" / "he" / "tiles.jsonl").open("a") as file:
        file.write('{"x_px": 1, "y')  # what a kill leaves
    assert tree(stopped) != tree(whole)
    cut_slides(pair, stopped, SETTINGS, DEMANDS)
    assert tree(stopped) == tree(whole)
    before = tree(whole)
    assert cut_slides(pair, whole, SETTINGS, DEMANDS) == report
    assert tree(whole) == before


def test_a_pair_that_fails_does_not_stop_the_others(islands: Islands, save_slide: SaveSlide, tmp_path: Path) -> None:
    he, ihc, blank = (
        save_slide(name, rgb)
        for name, rgb in (
            ("he", islands.he()),
            ("ihc", islands.ihc()),
            ("blank", np.full((300, 300, 3), 240, np.uint8)),
        )
    )
    matrix = tmp_path / "identity.txt"
    matrix.write_text("1 0 0\n0 1 0\n", encoding="utf-8")
    good = SlidePair(he, ihc, "good", "p1", "train", "2+", matrix)
    held_out = SlidePair(he, ihc, "held-out", "p2", "val", "", matrix)
    bad = SlidePair(blank, ihc, "bad", "p3")
    root = tmp_path / "set"
    told: dict[str, object] = {}

    def tell(pair: SlidePair, result: object) -> None:
        told[pair.name] = result

    outcome = cut_data_set([bad, good, held_out], CutJob(root, SETTINGS, DEMANDS), on_done=tell)
    assert list(outcome.failures) == ["bad"]
    assert "blank.tif shows no tissue" in outcome.failures["bad"]
    assert list(told) == ["bad", "good", "held-out"]
    layout = find_layout(root)
    assert (layout.name, set(layout.parts)) == ("CSV", {"train", "val"})
    for part, case, grade in (("train", "p1", 2), ("val", "p2", None)):
        tiles = layout.pairs(part)
        assert len(tiles) == outcome.reports[0].kept
        assert {(tile.case, tile.grade) for tile in tiles} == {(case, grade)}
    with (root / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train", "val"}
    for row in rows:
        assert float(row["tissue"]) >= SETTINGS.least_tissue
        assert float(row["overlap"]) >= SETTINGS.least_overlap
        assert float(row["residual_um"]) <= SETTINGS.most_residual_um
    whole = (root / "pairs.csv").read_bytes()
    again = cut_data_set([replace(good, split="val"), held_out], CutJob(root, SETTINGS, DEMANDS))
    assert list(again.failures) == ["good"], "it was begun for training"
    alone = cut_data_set([held_out], CutJob(root, SETTINGS, DEMANDS))
    assert not alone.failures
    assert (root / "pairs.csv").read_bytes() == whole, "tiles of earlier runs stay listed, as what they were cut for"
    kept = outcome.reports[0].kept
    assert alone.listed == {"train": kept, "val": kept}


def test_what_was_begun_otherwise_is_not_mixed(pair: SlidePair, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / "cut.json").write_text(json.dumps({"mpp": 0.25}), encoding="utf-8")
    with pytest.raises(OutputError, match=r"mpp 0\.25, now it is 4"):
        cut_data_set([pair], CutJob(root, SETTINGS, DEMANDS))
    folder = root / "slides" / pair.name
    folder.mkdir(parents=True)
    (folder / "slides.json").write_text('{"he": "elsewhere.svs"}', encoding="utf-8")
    with pytest.raises(OutputError, match=r"begun with he elsewhere\.svs"):
        cut_slides(pair, root, SETTINGS, DEMANDS)
    for note in (root / "cut.json", folder / "slides.json"):
        note.write_text('{"he": "else', encoding="utf-8")
    with pytest.raises(OutputError, match=r"cut\.json is damaged .* remove the folder"):
        cut_data_set([pair], CutJob(root, SETTINGS, DEMANDS))
    with pytest.raises(OutputError, match=r"slides\.json is damaged .* remove the folder"):
        cut_slides(pair, root, SETTINGS, DEMANDS)


def test_another_slide_under_the_same_name_is_not_taken_for_the_one_that_was_cut(
    pair: SlidePair, islands: Islands, save_slide: SaveSlide, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    report = cut_slides(pair, root, SETTINGS, DEMANDS)
    save_slide("ihc", islands.ihc())
    with pytest.raises(OutputError, match=r"another slide of the name .*ihc\.tif"):
        cut_slides(pair, root, SETTINGS, DEMANDS)
    note = root / "slides" / pair.name / "slides.json"
    kept = {name: value for name, value in json.loads(note.read_text()).items() if not name.endswith("_contents")}
    note.write_text(json.dumps(kept))  # of an earlier version
    assert cut_slides(pair, root, SETTINGS, DEMANDS) == report


def test_the_commands_cut_and_measure(islands: Islands, save_slide: SaveSlide, tmp_path: Path) -> None:
    he, ihc = save_slide("he", islands.he()), save_slide("ihc", islands.ihc(turned(10).inverse))
    out = tmp_path / "set"
    words = ["pairs", "cut", he, ihc, "--out", out, "--mpp", MPP, "--size", 64, "--no-mirror", "--no-any-scale"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert "tiles kept" in result.stderr
    assert str(out / "pairs.csv") in result.stdout
    found = out / "slides" / "he"
    assert {path.name for path in found.iterdir()} == {
        "slides.json", "transform.json", "tiles.jsonl", "overlay.png", "tiles.png", "done.json"
    }  # fmt: skip
    places = np.array([[100, 200], [180, 220], [160, 120]])
    for name, points in (("a.csv", places), ("b.csv", turned(10)(places * MPP) / MPP)):
        (tmp_path / name).write_text("\n".join(["X,Y", *(f"{x},{y}" for x, y in points)]), encoding="utf-8")
    landmarks = [word for name in ("a.csv", "b.csv") for word in ("--landmarks", tmp_path / name)]
    words = ["pairs", "error", found / "transform.json", *landmarks]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert "rTRE" in result.stdout
    median = float(result.stdout.splitlines()[1].split()[4])
    assert median < 4
    refused = CliRunner().invoke(app, ["pairs", "cut", str(he), "--out", str(out)])
    assert refused.exit_code == 1
    assert "give the H&E slide and the IHC slide" in str(refused.exception)
