"""`restain pairs check`: each thing that can be wrong with a data set is found where it was put, and not elsewhere."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from restain.cli import main
from restain.data.cases import cases_by_pattern
from restain.data.check import Findings, Problem, check, pinkness, sharpness
from restain.data.contact_sheet import save_contact_sheet, worst_lines
from restain.data.misalignment import can_be_matched, correlate, misalignment
from restain.data.overlaps import find_overlaps, thumbnail
from restain.errors import InputError
from restain.image import load_image, save_image, to_tensor

Captured = pytest.CaptureFixture[str]
SIDE = 256
HAEMATOXYLIN, EOSIN, DAB = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def tissue(seed: int, side: int = SIDE) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Amounts of haematoxylin (nuclei) and of the other stain (patches), H x W each."""
    random = np.random.default_rng(seed)
    nuclei = np.zeros((side, side))
    nuclei[random.integers(0, side, side**2 // 260), random.integers(0, side, side**2 // 260)] = 60
    nuclei = np.minimum(gaussian_filter(nuclei, 2.2, mode="wrap"), 1.2)
    patches = gaussian_filter(random.normal(size=(side, side)), 20, mode="wrap")
    return nuclei, (patches > 0) * 0.4 + 0.05


def paint(nuclei: NDArray[np.float64], other: NDArray[np.float64], stain: NDArray[np.float64]) -> NDArray[np.uint8]:
    grain = np.random.default_rng(0).normal(1, 0.1, nuclei.shape)  # chromatin and fibres, which blur takes away
    density = (nuclei * grain)[..., None] * HAEMATOXYLIN + (other * grain)[..., None] * stain
    return np.round(255 * 10**-density).astype(np.uint8)


def pair(seed: int, shift: tuple[int, int] = (0, 0)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """H&E and IHC of the same drawn tissue, which lies `shift` = (dx, dy) further in the IHC."""
    nuclei, other = tissue(seed)
    he = paint(nuclei, other, EOSIN)
    return he, np.roll(paint(nuclei, other, DAB), shift[::-1], axis=(0, 1))


def save_pair(root: Path, part: str, name: str, he: NDArray[np.uint8], ihc: NDArray[np.uint8]) -> None:
    save_image(root / f"{part}A" / f"{name}.png", he)
    save_image(root / f"{part}B" / f"{name}.png", ihc)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Six pairs of five cases, nothing wrong; shifted by a few px as neighbouring sections are."""
    for index in range(4):
        save_pair(tmp_path / "set", "train", f"case{index}_a", *pair(index, (4, -3)))
    save_pair(tmp_path / "set", "val", "case7_a", *pair(7, (4, -3)))
    save_pair(tmp_path / "set", "val", "case8_a", *pair(8, (4, -3)))
    return tmp_path / "set"


def of_kind(found: Findings, kind: str) -> list[Problem]:
    return [problem for problem in found.problems if problem.kind == kind]


def test_a_sound_set_has_no_problems(sound: Path) -> None:
    found = check(sound, cases_by_pattern("^[^_]+"))
    assert not found.problems
    assert not found.notes
    assert len(found.facts) == 6
    assert abs(found.median_misalignment_px - 5) < 1.5
    assert all(fact.pink_margin > 0.1 for fact in found.facts)


def test_each_fault_is_found_and_named(sound: Path, tmp_path: Path) -> None:
    he, ihc = pair(20)
    save_pair(sound, "train", "case20_swapped", ihc, he)
    he, ihc = pair(21)
    blurred = np.stack([gaussian_filter(he[..., colour], 2.5) for colour in range(3)], axis=-1)
    save_pair(sound, "train", "case21_blurred", blurred, ihc)
    save_pair(sound, "train", "case22_far", *pair(22, (34, 20)))
    save_pair(sound, "val", "case2_b", *pair(23))
    he, ihc = pair(8)
    save_pair(sound, "train", "case24_again", np.roll(he, (60, -40), axis=(0, 1)), np.roll(ihc, (60, -40), axis=(0, 1)))
    found = check(sound, cases_by_pattern("^[^_]+"))
    assert [problem.tiles for problem in of_kind(found, "stains swapped")] == [("train/case20_swapped",)]
    assert [problem.tiles for problem in of_kind(found, "blur")] == [("train/case21_blurred",)]
    assert [problem.tiles for problem in of_kind(found, "misaligned")] == [("train/case22_far",)]
    assert [problem.tiles for problem in of_kind(found, "case on both sides")] == [("train/case2_a", "val/case2_b")]
    assert [set(problem.tiles) for problem in of_kind(found, "same tissue")] == [{"train/case24_again", "val/case8_a"}]
    assert of_kind(found, "same tissue")[0].grave, "the two lie in different parts"
    assert not of_kind(found, "scale")

    found.save(tmp_path / "out" / "check.json")
    content = json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))
    assert content["pairs"] == 11
    assert {problem["kind"] for problem in content["problems"]} == {problem.kind for problem in found.problems}
    assert save_contact_sheet(found, tmp_path / "out" / "worst.png")
    assert Image.open(tmp_path / "out" / "worst.png").width > 1000
    assert not save_contact_sheet(replace(found, problems=[]), tmp_path / "out" / "worst.png")
    assert not (tmp_path / "out" / "worst.png").exists()


def test_the_same_tissue_across_a_split_comes_first(sound: Path) -> None:
    save_pair(sound, "train", "copy_of_0", *pair(0, (4, -3)))
    save_pair(sound, "train", "copy_of_7", *pair(7, (4, -3)))
    assert [problem.tiles for problem in of_kind(check(sound), "same tissue")] == [
        ("train/copy_of_7", "val/case7_a"),
        ("train/case0_a", "train/copy_of_0"),
    ]


@pytest.mark.parametrize(
    ("enlarged", "words"),
    [
        ("ihc", "the IHC of train is at 2 times the scale of the H&E; shrink it to match"),
        ("he", "the IHC of train is at 0.5 times the scale of the H&E; enlarge it to match"),
    ],
)
def test_another_scale_of_the_ihc_is_found(enlarged: str, words: str, tmp_path: Path) -> None:
    for index in range(4):
        sides = dict(zip(("he", "ihc"), pair(index, (4, -3)), strict=True))
        middle = Image.fromarray(sides[enlarged]).crop((64, 64, 192, 192))
        sides[enlarged] = np.asarray(middle.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        save_pair(tmp_path, "train", f"{index}", sides["he"], sides["ihc"])
    problems = of_kind(check(tmp_path), "scale")
    assert len(problems) == 1
    assert problems[0].words == words


def test_correlation_finds_a_shift_exactly() -> None:
    image = torch.from_numpy(tissue(0, 128)[0]).float()[None]
    for dx, dy in ((0, 0), (7, -11), (-20, 3)):
        shifts, quality = correlate(image, image.roll((dy, dx), dims=(1, 2)), 2.0)
        assert shifts.tolist() == [[dx, dy]]
        assert quality > 8


def test_misalignment_of_a_known_field_is_found() -> None:
    """A rotation by 3 degrees and a shift: aligned(p) = displaced(p + d(p))."""
    side, angle = 512, math.radians(3)
    nuclei, other = tissue(5, side)
    y, x = np.mgrid[:side, :side].astype(float)
    centre = side / 2
    # the displaced section at q shows the tissue at the place p with p + d(p) = q: turn back, shift back
    u, v = x - centre - 15, y - centre + 9
    back = np.stack(
        [centre - math.sin(angle) * u + math.cos(angle) * v, centre + math.cos(angle) * u + math.sin(angle) * v]
    )
    moved = [map_coordinates(amount, back, order=1, mode="wrap") for amount in (nuclei, other)]
    he, ihc = to_tensor(paint(nuclei, other, EOSIN)), to_tensor(paint(*moved, DAB))
    forward_x = math.cos(angle) * (x - centre) - math.sin(angle) * (y - centre) + centre + 15 - x
    forward_y = math.sin(angle) * (x - centre) + math.cos(angle) * (y - centre) + centre - 9 - y
    found = misalignment(he, ihc)
    assert found.blocks >= 10
    assert abs(found.median_px - np.median(np.hypot(forward_x, forward_y))) < 4
    assert abs(found.shift_px[0] - 15) < 5
    assert abs(found.shift_px[1] + 9) < 5
    unrelated = misalignment(he, to_tensor(paint(*tissue(6, side), DAB)))
    assert math.isnan(unrelated.median_px), "where nothing fits, nothing is claimed"


def test_real_misalignment_is_found(shared: Path) -> None:
    """Real H&E against rendered stain that was displaced by a known field."""
    folder = shared / "data" / "colon-panck"
    found, true = [], []
    for path in sorted((folder / "valA").iterdir())[1::6][:6]:
        he, ihc = (to_tensor(load_image(folder / side / path.name)) for side in ("valA", "valB"))
        found.append(misalignment(he, ihc).median_px)
        field = np.load(folder / "displacement" / f"{path.stem}.npy").astype(float)
        true.append(np.median(np.hypot(*field)))
    known = np.isfinite(found)
    assert known.sum() >= 4
    assert np.median(np.abs(np.array(found) - true)[known]) < 12


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_copies_are_found_in_every_orientation(turns: int, mirrored: bool) -> None:
    rgb = paint(*tissue(3), EOSIN)
    copy = np.ascontiguousarray(np.rot90(rgb[:, ::-1] if mirrored else rgb, turns))
    (found,) = find_overlaps([thumbnail(image) for image in (rgb, paint(*tissue(4), EOSIN), copy)])
    assert (found.first, found.second) == (0, 2)
    assert found.share == 1
    assert found.correlation > 0.999
    assert found.turned == (turns > 0 or mirrored)


def test_overlapping_tiles_are_found_with_their_share() -> None:
    section = paint(*tissue(3, 768), EOSIN)
    windows = [(0, 0), (0, 128), (120, 0), (500, 500), (400, 0)]
    thumbs = [thumbnail(section[y : y + SIDE, x : x + SIDE]) for y, x in windows]
    found = {(overlap.first, overlap.second): overlap.share for overlap in find_overlaps(thumbs)}
    assert set(found) == {(0, 1), (0, 2), (1, 2)}
    assert abs(found[0, 1] - 0.5) < 0.05
    assert not any(overlap.turned for overlap in find_overlaps(thumbs))
    assert not find_overlaps([thumbnail(paint(*tissue(seed), EOSIN)) for seed in range(12)])
    assert not find_overlaps([torch.full((128, 128), 255.0)] * 3), "white tiles show no tissue"


def test_eosin_is_pinker_than_dab_and_blur_lowers_sharpness() -> None:
    he, ihc = pair(0)
    assert pinkness(to_tensor(he)) > pinkness(to_tensor(ihc)) + 0.1
    assert pinkness(torch.ones(1, 3, 8, 8)) == 0
    blurred = np.stack([gaussian_filter(he[..., colour], 2.0) for colour in range(3)], axis=-1)
    assert sharpness(blurred) < sharpness(he) / 2
    assert sharpness(np.full((16, 16, 3), 200, np.uint8)) == 0


def test_cases_are_read_off_names() -> None:
    assert cases_by_pattern("^[^_]+")("P12_3_4") == "P12"
    assert cases_by_pattern(r"case(\d+)")("tile_case07_b") == "07"
    with pytest.raises(InputError, match="does not occur in the tile name 'tile'"):
        cases_by_pattern(r"\d")("tile")
    for pattern in (r"^(\d+)?_", r"^\d*"):
        with pytest.raises(InputError, match="finds nothing in the tile name '_a'"):
            cases_by_pattern(pattern)("_a")
    with pytest.raises(InputError, match="is not a regular expression"):
        cases_by_pattern("(")


def test_the_worst_pair_is_named(sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    save_pair(sound, "train", "case22_far", *pair(22, (20, 15)))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["restain", "pairs", "check", str(sound)])
    with pytest.raises(SystemExit):
        main()
    assert re.search(r"train +5 +5 +from \d+ +2\d +in case22_far", capsys.readouterr().out)


def test_tiles_too_small_to_be_matched_are_told_apart(tmp_path: Path) -> None:
    for index, side in enumerate((256, 256, 190)):
        he, ihc = pair(index, (4, -3))
        save_pair(tmp_path, "train", f"{index}", he[:side], ihc[:side])
    found = check(tmp_path)
    (note,) = found.notes
    assert "1 of 3 pairs" in note
    assert "192 px" in note
    assert "align" in note
    assert [can_be_matched(*size) for size in ((192, 512), (191, 512), (384, 1024), (380, 1024))] == [True, False] * 2


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (sound.parent / "file").touch()
    monkeypatch.setattr("restain.data.check.check", lambda *_: pytest.fail("reads pairs"))
    monkeypatch.setattr(sys, "argv", ["restain", "pairs", "check", str(sound), "--out", str(sound.parent / "file")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "cannot create the folder" in capsys.readouterr().err


def test_partners_stand_side_by_side_and_name_each_other() -> None:
    problems = [
        Problem("case on both sides", ("train/a", "train/b", "val/c"), "a: 2 in train and 1 in val", grave=True),
        Problem("stains swapped", ("train/d",), "pinker", grave=True),
        Problem("same tissue", ("train/e", "train/f"), "half is shared", grave=False),
        Problem("blur", ("train/g",), "blurred", grave=False),
    ]
    lines = worst_lines(Findings(Path(), "MIST", [], problems, []))
    assert [[tile for tile, _ in line] for line in lines] == [
        ["train/a", "val/c"],
        ["train/e", "train/f"],
        ["train/d", "train/g"],
    ]
    assert [words for _, words in lines[1]] == [
        "train/e with train/f: same tissue, half is shared",
        "train/f with train/e: same tissue, half is shared",
    ]


def test_the_command_says_what_it_found(sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    he, ihc = pair(20)
    save_pair(sound, "train", "case20_swapped", ihc, he)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["restain", "pairs", "check", str(sound), "--out", str(sound.parent / "out")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1, "a grave problem"
    printed = capsys.readouterr().out
    assert "train/case20_swapped: the IHC is pinker than the H&E" in printed
    assert re.search(r"Sections apart, px +Pairs +Median +Worst tenth +Worst", printed)
    assert re.search(r"train +5 +5 +from 5 +5 +in case", printed)
    assert re.search(r"val +2 +5 +from 5 +5 +in case", printed)
    assert "(cases)" in printed
    assert sorted(path.name for path in (sound.parent / "out").iterdir()) == ["check.json", "worst.png"]
