"""The demo's page: whole in one file, from its first version on, and safe from the names it is given."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from restain.demo.figures import draw_curves
from restain.demo.page import Content, SlidesInRegister, write_page
from restain.demo.pictures import Example
from restain.demo.stages import Journal, Stage
from restain.errors import OutputError
from restain.image import save_image
from restain.metrics import evaluate

COLUMNS = ("H&E", "virtual HER2", "truth")


def noise(seed: int, level: float = 200, spread: float = 20) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    return np.clip(random.normal(level, spread, (32, 32, 3)), 0, 255).astype(np.uint8)


def row(caption: str) -> Example:
    return Example(caption, {column: noise(index) for index, column in enumerate(COLUMNS)})


@pytest.fixture
def first() -> Content:
    """What there is after the first half minute."""
    return Content([row("3+")], noise(1), under_way="drawing", stages=[Stage("Draw", "restain draw", 61)])


@pytest.fixture
def whole(first: Content, tmp_path: Path) -> Content:
    for index in range(6):
        truth = noise(index)
        save_image(tmp_path / "truth" / f"{index}.png", truth)
        for name, level in (("the H&E as it is", 120), ("tuned", 190)):
            save_image(tmp_path / name / f"{index}.png", noise(index, level))
    return replace(
        first,
        own=row("<b>mine</b>.svs"),
        registered=SlidesInRegister(noise(2), noise(3), ["7 of 9 tiles kept"]),
        judged=[row("the whole slide"), row("a detail")],
        curves={"from scratch": [(5, 0.5), (10, 0.25)]},
        evaluations={
            name: evaluate(tmp_path / name, tmp_path / "truth", he=tmp_path / "truth")
            for name in ("the H&E as it is", "tuned")
        },
        commands={"Look": "restain view a.svs"},
        under_way="",
        facts={"Seed": "0"},
    )


def written(content: Content, folder: Path) -> str:
    write_page(folder / "page.html", content)
    return (folder / "page.html").read_text(encoding="utf-8")


def test_the_page_needs_no_other_file_and_no_script(whole: Content, tmp_path: Path) -> None:
    page = written(whole, tmp_path)
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "url(" not in page.replace("url(#", "")
    assert "<script" not in page


def test_it_is_there_early_reloads_while_it_grows_and_says_what_is_drawn(first: Content, tmp_path: Path) -> None:
    page = written(first, tmp_path)
    assert 'http-equiv="refresh"' in page
    assert "Under way: drawing" in page
    assert "tissue is drawn" in page
    assert "Measured" not in page
    assert page.index("3+") < page.index("restain draw")


def test_pictures_come_before_figures(whole: Content, tmp_path: Path) -> None:
    page = written(whole, tmp_path)
    assert "refresh" not in page
    places = [page.index(words) for words in ("3+", "7 of 9 tiles kept", "a detail", "Measured", "restain view a.svs")]
    assert places == sorted(places)
    for evaluation in whole.evaluations.values():
        assert f"{evaluation.figures['psnr'].value:.2f}" in page
        assert all(figure.fingerprint in page for figure in evaluation.figures.values())
    assert "1.0 minutes" in page


def test_names_cannot_break_the_page(whole: Content, tmp_path: Path) -> None:
    page = written(whole, tmp_path)
    assert "&lt;b&gt;mine" in page
    assert "<b>mine" not in page


def test_drawings_are_well_formed_and_repeat() -> None:
    curves = {"a": [(1, 1.0), (2, 0.5)], "b": [(1, 0.7), (2, 0.6)]}
    assert ET.fromstring(draw_curves(curves, "L1")).tag.endswith("svg")
    assert draw_curves(curves, "L1") == draw_curves(curves, "L1")


def test_stages_of_another_version_are_not_shown_as_those_of_this_one(tmp_path: Path) -> None:
    Journal(tmp_path, 0)
    Journal(tmp_path, 0)
    path = tmp_path / "stages.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"restain": "0.0.1"}))
    with pytest.raises(OutputError, match=r"a demo of restain 0\.0\.1, and this is"):
        Journal(tmp_path, 0)
    del content["restain"]  # of a version that did not record it
    path.write_text(json.dumps(content))
    Journal(tmp_path, 0)
