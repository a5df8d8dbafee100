"""`restain evaluate` as a user meets it."""

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from restain.cli import main
from restain.data.phantom import PhantomSettings, draw_pair
from restain.image import load_image, save_image, to_tensor
from restain.metrics.seams import seams
from restain.stains import to_unit


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Two grey tiles."""
    for index in range(2):
        save_image(tmp_path / "tiles" / f"{index}.png", np.full((16, 16, 3), 100 + index, np.uint8))
    return tmp_path / "tiles"


def test_it_prints_every_metric_and_says_where_the_result_is(
    tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tiles.parent / "out"
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", f"restain evaluate --virtual {tiles} --real {tiles} --out {out}".split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "SSIM, grey ↑" in printed
    assert "gaussian 11 px, sigma 1.5" not in printed, "the fingerprint stands for it"
    assert "compare pixel by pixel. If the real IHC is a neighbouring section" in printed
    figures = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["figures"]
    assert all(figure["fingerprint"] in printed for figure in figures.values())
    assert str(out / "evaluation.json") in printed
    assert (out / "evaluation.json").is_file()


def test_the_report_has_the_command_that_shows_the_worst_tile_in_the_viewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verbs: dict[str, Any]
) -> None:
    pair = draw_pair(0, PhantomSettings(size_px=64))
    for name, virtual in (("good", pair.ihc_aligned), ("worst", pair.he)):
        for folder, rgb in (("he", pair.he), ("real", pair.ihc_aligned), ("virtual", virtual)):
            save_image(tmp_path / folder / f"{name}.png", rgb)
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "--virtual", "virtual", "--real", "real", "--he", "he", "--html", "page.html"]
    monkeypatch.setattr(sys, "argv", ["restain", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    text = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    command = re.search(r"restain view [^<]*", text)
    assert command
    shown = command[0].split()
    assert {"he/worst.png", "virtual/worst.png", "real/worst.png"} < set(shown)
    known = {option for parameter in verbs["view"].params for option in parameter.opts}
    assert {word for word in shown if word.startswith("--")} <= known


def test_in_a_narrow_terminal_a_row_of_two_methods_takes_two_lines(
    tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(2):
        save_image(tiles.parent / "virtual" / f"{index}.png", np.full((16, 16, 3), 90 + 3 * index, np.uint8))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tiles.parent)
    monkeypatch.setattr(
        sys, "argv", ["restain", "evaluate", "--virtual", "virtual", "--virtual", "tiles", "--real", "tiles"]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    lines = printed[: printed.index("SSIM, MS-SSIM, PSNR and")].splitlines()
    assert max(map(len, lines)) <= 80
    start = next(place for place, line in enumerate(lines) if line.startswith("SSIM, grey"))
    assert lines[start + 1].split()[0].startswith("[")
    assert lines[start + 2].startswith("SSIM, RGB")
    assert "Give --out or --html" in printed


def test_a_missing_partner_is_one_line_and_status_1(
    tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(tiles.parent / "virtual" / "0.png", np.full((16, 16, 3), 100, np.uint8))
    monkeypatch.setattr(sys, "argv", f"restain evaluate --virtual {tiles.parent / 'virtual'} --real {tiles}".split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    printed = capsys.readouterr().err.strip().splitlines()
    assert str(tiles / "1.png") in printed[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--marker nuclear", "give --mpp"),
        ("--mpp 50", "out of range"),
        ("--marker nuclear --mpp 50", "out of range"),
    ],
)
def test_cells_need_a_resolution(
    options: str, words: str, tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", f"restain evaluate --virtual {tiles} --real {tiles} {options}".split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert words in " ".join(capsys.readouterr().err.split())


def test_cells_are_counted_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        save_image(tmp_path / f"{seed}.png", draw_pair(seed, PhantomSettings(size_px=160)).ihc_aligned)
    monkeypatch.setenv("COLUMNS", "200")
    options = f"--virtual {tmp_path} --real {tmp_path} --marker membrane --mpp 0.5"
    monkeypatch.setattr(sys, "argv", f"restain evaluate {options}".split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for words in ("Positive cells (complete membrane), bias", "H-score, Pearson R", "HER2-like score, mean error"):
        assert words in printed
    assert "Left out: scores of cells" not in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--device abacus", "--device abacus"),
        ("--out tiles/0.png", "cannot create the folder tiles/0.png"),
        ("--html tiles/0.png/report.html", "cannot create the folder tiles/0.png"),
        ("--cases ^P", "'^P' does not occur in the tile name '0'"),
        ("--virtual nowhere", "nowhere does not exist"),
        ("--virtual jpeg", "tiles holds png but jpeg holds jpg; methods in one table need the same format"),
        ("--html tiles", "tiles: expected a name that ends in .html"),
        ("--html tiles/0.png", "tiles/0.png: expected a name that ends in .html"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_measured(
    options: str, words: str, tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiles.parent)
    Path("jpeg").mkdir()
    for image in tiles.iterdir():
        Image.open(image).save(Path("jpeg", f"{image.stem}.jpg"))
    monkeypatch.setattr("restain.metrics.evaluation.read_batches", lambda *_: pytest.fail("measures"))
    monkeypatch.setattr(sys, "argv", f"restain evaluate --virtual tiles --real tiles {options}".split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert words in capsys.readouterr().err


def test_seams_are_looked_for_on_demand(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(100, 140, (16, 16, 3))
    noise[:, 8:] += 40  # tiles of another brightness
    for index in range(2):
        save_image(tiles.parent / "virtual" / f"{index}.png", noise.astype(np.uint8))
    arguments = f"restain evaluate --virtual virtual --real tiles --seams 8 --out {tiles.parent / 'out'}"
    monkeypatch.chdir(tiles.parent)
    monkeypatch.setattr(sys, "argv", arguments.split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    figure = json.loads((tiles.parent / "out" / "evaluation.json").read_text(encoding="utf-8"))["figures"]["seams"]
    virtual = to_unit(to_tensor(load_image(tiles.parent / "virtual" / "0.png")))
    assert figure["value"] == pytest.approx(seams(virtual, 8).item(), rel=1e-5)
    assert figure["value"] > 1.5
    assert figure["protocol"]["tile"] == "8 px"


def test_tiles_without_borders_have_no_seams_to_look_for(
    tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", f"restain evaluate --virtual {tiles} --real {tiles} --seams 16".split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Seams at borders of tiles of 16 px" in told
    assert "17 px" in told


@pytest.mark.parametrize(("cases", "over"), [("a,b", "over 2 cases"), ("a,", "over tiles")])
def test_cases_come_from_the_list_beside_the_real_images(
    tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cases: str, over: str
) -> None:
    for index in range(2):
        save_image(tiles.parent / "he" / f"{index}.png", np.full((16, 16, 3), 100, np.uint8))
    rows = [f"he/{index}.png,tiles/{index}.png,{case}" for index, case in enumerate(cases.split(","))]
    (tiles.parent / "pairs.csv").write_text("\n".join(["he,ihc,case", *rows]))
    out = tiles.parent / "out"
    monkeypatch.setattr(sys, "argv", f"restain evaluate --virtual {tiles} --real {tiles} --out {out}".split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    said = capsys.readouterr().err
    assert str(tiles.parent / "pairs.csv") in said
    figures = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["figures"]
    assert (over == "over 2 cases") == ("over 2 cases" in figures["psnr"]["protocol"]["interval"])
    assert over in " ".join(said.split()) or over == "over 2 cases"
