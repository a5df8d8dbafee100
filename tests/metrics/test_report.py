"""The report: whole in one file, every figure with its protocol, honest about what is missing."""

import math
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from restain.cli import main
from restain.image import load_image, save_image, to_tensor
from restain.metrics import evaluate
from restain.metrics.comparison import CAUTION, verdict
from restain.metrics.figure import rounded
from restain.metrics.plots import draw_agreement
from restain.metrics.report import dab_difference, write_report
from restain.metrics.trust import unlike_shares
from restain.staining.inputs import find_images
from restain.stains import to_unit
from restain.trust.familiarity import Familiarity, block_features
from restain.trust.images import ImageMaps


def stained(seed: int, amount: float) -> NDArray[np.uint8]:
    """Brown blobs on white."""
    random = np.random.default_rng(seed)
    density = np.kron(random.random((6, 6)), np.ones((8, 8)))[..., None] * amount * np.array([0.27, 0.57, 0.78])
    return (255 * 10**-density).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for index in range(7):
        for side, amount in (("real", 0.8), ("good", 0.75), ("bad", 0.1 * index), ("he", 0.2)):
            save_image(tmp_path / side / f"tile {index} <b>.png", stained(index, amount))
    return tmp_path


def test_the_page_needs_no_other_file_and_shows_everything(folders: Path) -> None:
    found = {name: evaluate(folders / name, folders / "real", he=folders / "he") for name in ("bad", "good")}
    write_report(folders / "report.html", found)
    page = (folders / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert len([source for source in sources if source.startswith("data:image/jpeg;base64,")]) == 2 * 6 * 4
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    assert "<script" not in page
    assert "tile 0 &lt;b&gt;" in page
    assert "<b>.png" not in page
    for evaluation in found.values():
        for figure in evaluation.figures.values():
            assert figure.fingerprint in page
    for words in ("H&amp;E", "Real", "Virtual", "DAB difference", "best", "median", "worst", "Bland–Altman", "N = 7"):
        assert words in page
    assert re.search("MS-SSIM, RGB: .*161 px", page)
    assert 'class="verdict better"' in page


def test_trust_maps_are_shown_where_all_shown_tiles_have_one(folders: Path) -> None:
    found = {"good": evaluate(folders / "good", folders / "real")}
    for index in range(7):
        if index in (0, 6):
            write_report(folders / "report.html", found)
            assert ">Trust<" not in (folders / "report.html").read_text(encoding="utf-8")
        save_image(folders / "good" / "trust" / f"tile {index} <b>.png", stained(index, 0.5))
    write_report(folders / "report.html", found)
    page = (folders / "report.html").read_text(encoding="utf-8")
    assert ">Trust<" in page
    assert page.count("Trust of tile") == 6
    assert page.count("data:image/jpeg;base64,") == 6 * 4


def test_cells_are_drawn_without_the_tiles_that_have_none(folders: Path) -> None:
    found = evaluate(folders / "good", folders / "real")
    scores = torch.tensor([10.0, 20, 30, 40, 50, 60, math.nan], dtype=torch.float64)
    columns = {**found.columns, "h_score_virtual": scores, "h_score_real": scores + 5}
    write_report(folders / "report.html", {"good": replace(found, columns=columns)})
    page = (folders / "report.html").read_text(encoding="utf-8")
    assert "real: H-score" in page
    assert "bias −5" in page


def test_the_difference_is_brown_where_there_is_too_much_and_white_where_it_fits() -> None:
    white, brown = np.full((32, 32, 3), 255, np.uint8), stained(0, 2.0)[:32, :32]
    assert (dab_difference(brown, brown) > 240).all()
    red, _, blue = dab_difference(brown, white).astype(int).mean((0, 1))
    assert red > blue
    red, _, blue = dab_difference(white, brown).astype(int).mean((0, 1))
    assert blue > red


def test_drawings_are_well_formed_and_repeat() -> None:
    random = np.random.default_rng(0)
    virtual, real = random.random((2, 20))
    drawing = draw_agreement(virtual, real, "DAB density, OD")
    assert ET.fromstring(drawing).tag.endswith("svg")
    assert drawing == draw_agreement(virtual, real, "DAB density, OD")
    assert f"bias {(virtual - real).mean():+.3g}".replace("-", "−") in drawing


def test_equal_values_are_drawn_as_equal() -> None:
    """Rounding alone would set the axes: ticks of 1e−17, and an offset written above them."""
    real = np.full(6, 0.1)
    drawing = draw_agreement(real + 1.4e-17 * np.arange(6), real, "DAB density, OD")
    assert "e−" not in drawing
    assert "bias +0<" in drawing
    assert "SD" not in drawing


def test_figures_that_need_images_in_register_get_no_verdict(folders: Path) -> None:
    found = {name: evaluate(folders / name, folders / "real") for name in ("bad", "good")}
    assert verdict("psnr", *found.values()) == "better"
    write_report(folders / "report.html", found)
    page = (folders / "report.html").read_text(encoding="utf-8")
    rows = {re.findall("<td>(.*?)</td>", row)[0]: row for row in page.split("<tr>") if "<td>" in row}
    assert "verdict" not in rows["PSNR ↑, dB"]
    assert 'class="verdict better"' in rows["DAB density error ↓, OD"]
    assert CAUTION in page


def test_the_share_of_tissue_unlike_the_training_is_told_where_it_was_written_down(tmp_path: Path) -> None:
    for name in ("he", "real", "asked", "other"):
        for index in range(3):
            save_image(tmp_path / name / f"{index}.png", np.tile(stained(index, 0.5), (2, 2, 1)))
    mean = block_features(to_unit(to_tensor(load_image(tmp_path / "he" / "0.png")))).flatten().double()
    usual = Familiarity(mean, torch.eye(len(mean), dtype=torch.float64), 1e-6)  # the first tile, and no other
    maps = ImageMaps(lambda rgb: rgb, usual)
    for job in find_images([tmp_path / "he"], tmp_path / "asked", overwrite=True):
        maps.add(job, load_image(job.source), load_image(job.source))
    maps.save()
    assert unlike_shares(tmp_path / "asked", ["2", "0", "1"]) == [1, 0, 1]
    assert unlike_shares(tmp_path / "other", ["0"]) == []
    write_report(
        tmp_path / "r.html", {name: evaluate(tmp_path / name, tmp_path / "real") for name in ("asked", "other")}
    )
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<li>asked: 66.7 % of the blocks, mean over N = 3</li>" in page
    assert "<li>other:" not in page


def test_numbers_have_a_minus_that_is_one_and_none_before_a_zero() -> None:
    assert [rounded(value, 3) for value in (-0.25, -0.0004, 0.0004, 12)] == ["−0.250", "0.000", "0.000", "12.000"]
    assert [rounded(value, 2, "+") for value in (-0.25, -0.0004, 0.25)] == ["−0.25", "+0.00", "+0.25"]


def test_the_command_compares_methods_and_writes_the_report(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = folders / "out" / "report.html"
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("TORCH_HOME", str(folders / "nothing"))
    command = ["evaluate", "--virtual", "bad", "--virtual", "good", "--real", "real", "--html", str(page)]
    monkeypatch.chdir(folders)
    monkeypatch.setattr(sys, "argv", ["restain", *command, "--cases", r"\d", "--out", "figures"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "Difference" in printed
    assert "95% bootstrap over 7 cases" in printed
    assert "Left out: FID and KID: no Inception weights." in printed
    text = page.read_text(encoding="utf-8")
    assert "<dt>Preset</dt><dd>default</dd>" in text
    assert r"<dt>Cases</dt><dd>what \d finds in a name</dd>" in text
    assert (folders / "figures" / "good" / "evaluation.json").is_file()
