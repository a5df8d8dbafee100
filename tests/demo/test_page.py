"""The demo's page: whole in one file, honest about chance, safe from the names it is given."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from restain.demo.figures import draw_arrows, draw_curves
from restain.demo.page import Content, Example, write_page
from restain.demo.stages import Stage
from restain.image import save_image
from restain.metrics import evaluate
from restain.metrics.displacement import Recovery

TILE = "1 & <b>"
COLUMNS = ("H&E", "Real neighbour", "VSMT", "No guidance", "Truth")


def noise(seed: int, level: float = 200, spread: float = 20) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    return np.clip(random.normal(level, spread, (32, 32, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """A page's worth of noise, in which VSMT is nearer to the truth than the baseline."""
    random = np.random.default_rng(0)
    for index in range(6):
        truth = noise(index)
        stem = TILE if index == 1 else f"{index}"
        save_image(tmp_path / "truth" / f"{stem}.png", truth)
        for name, spread in (("VSMT", 3), ("No guidance", 30)):
            virtual = np.clip(truth + random.normal(0, spread, truth.shape), 0, 255).astype(np.uint8)
            save_image(tmp_path / name / f"{stem}.png", virtual)
    evaluations = {name: evaluate(tmp_path / name, tmp_path / "truth") for name in ("No guidance", "VSMT")}
    truth = torch.zeros(6, 2, 4, 4)
    truth[:, 0] = 9.5
    field = truth - torch.tensor([3.0, 1.25]).view(2, 1, 1)
    curve = [(step, 1 / step) for step in range(10, 100, 10)]
    curves = {"No guidance": {"generator/gan": curve}, "VSMT": {"generator/gan": curve, "generator/guidance": curve}}
    return Content(
        examples=[Example(TILE, "grade 2+", {column: noise(10) for column in COLUMNS})],
        evaluations=evaluations,
        curves=curves,
        recovery=Recovery(field, truth, torch.ones(6, 4, 4, dtype=torch.bool)),
        stages=[Stage("Draw tissue", "restain phantom pairs --pairs 6", 61)],
        facts={"Seed": "0"},
        recipes={"VSMT": "method = 'vsmt' # <recipe>"},
    )


@pytest.fixture
def page(content: Content, tmp_path: Path) -> str:
    write_page(tmp_path / "page.html", content)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_needs_no_other_file_and_no_script(page: str) -> None:
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "url(" not in page.replace("url(#", "")
    assert "<script" not in page


def test_the_page_shows_every_column_figure_protocol_and_step(page: str, content: Content) -> None:
    for column in COLUMNS:
        assert f">{column.replace('&', '&amp;')}</div>" in page
    for evaluation in content.evaluations.values():
        for figure in evaluation.figures.values():
            assert figure.fingerprint in page
    assert "3.2 px" in page  # of (3, 1.25)  # of (3, 1.25)
    assert "9.5 px" in page
    assert "1.0 minutes" in page
    assert "restain phantom pairs --pairs 6" in page
    assert "generator/guidance" in page
    assert "N = 6" in page


def test_what_is_better_and_what_is_not_clear_is_said(page: str) -> None:
    cards = page[page.index('class="cards"') : page.index("Held-out tiles")]
    assert cards.count('class="verdict better"') >= 1
    assert 'class="verdict better"' in page[page.index("<caption>") :]


def test_names_cannot_break_the_page(page: str) -> None:
    assert "1 &amp; &lt;b&gt;" in page
    assert TILE not in page
    assert "&lt;recipe&gt;" in page


def test_drawings_are_well_formed_and_repeat() -> None:
    field = torch.ones(2, 3, 3)
    curve = [(1, 1.0), (2, 0.5)]
    for draw in (
        lambda: draw_arrows(noise(0), {"found": field, "true": field}, torch.ones(3, 3, dtype=torch.bool)),
        lambda: draw_curves({"a": {"x": curve}, "b": {"x": curve, "y": curve}}),
    ):
        assert ET.fromstring(draw()).tag.endswith("svg")
        assert draw() == draw()
