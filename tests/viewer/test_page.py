"""The page in a real browser: panes stay linked, tiles arrive, the curtain moves, figures are the command's."""

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from restain.polygons import geojson_file
from restain.staining.model import load_model
from restain.staining.slide import stain_slide
from restain.trust.slide import SlideMaps
from restain.viewer import View
from restain.viewer.opening import result_of

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium and its driver on this machine")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,700"
)
Client = Any  # see conftest.py


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, view: View, look_at: Callable[[View], Client]) -> Any:
    browser.get(look_at(view).address)
    wait(browser, 'return document.body.dataset.ready === "1"')
    return browser


def wait(browser: Any, script: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := browser.execute_script(script)):
        assert time.monotonic() < end, script
        time.sleep(0.1)
    return found


def press(browser: Any, keys: str) -> None:
    webdriver.ActionChains(browser).send_keys(keys).perform()


ALL_STAINED = (
    'const s = window.restain?.progress.virtual1; return s && s.phase === "ready" && s.total > 0 && s.done === s.total'
)


def test_the_page_loads_without_an_error_and_tiles_arrive(page: Any) -> None:
    wait(page, ALL_STAINED)
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert page.execute_script('return document.querySelectorAll(".pane").length') == 2


def test_a_tile_in_the_browser_equals_the_servers(page: Any) -> None:
    wait(page, ALL_STAINED)
    data = page.execute_async_script(
        """const done = arguments[0];
        const bitmap = await createImageBitmap(await (await fetch("tiles/virtual1/0/3_1")).blob());
        const canvas = document.createElement("canvas"); canvas.width = bitmap.width; canvas.height = bitmap.height;
        canvas.getContext("2d").drawImage(bitmap, 0, 0); done(canvas.toDataURL("image/png"));"""
    )
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))
    raw = page.execute_async_script(
        """const done = arguments[0], answer = await fetch("tiles/virtual1/0/3_1");
        const bytes = new Uint8Array(await answer.arrayBuffer()); done(btoa(String.fromCharCode(...bytes)));"""
    )
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(raw))).convert("RGB"))
    assert np.array_equal(shown, sent)


def test_panes_move_together(page: Any) -> None:
    press(page, "++")
    page.execute_script("restain.panes()[1].viewer.viewport.panBy(new OpenSeadragon.Point(0.05, 0.03))")
    press(page, "r")
    time.sleep(1)
    first, second = page.execute_script(
        """return restain.panes().map(({viewer: {viewport: v}}) => {
        const c = v.getCenter(); return [v.getZoom(), c.x, c.y, v.getRotation()]; })"""
    )
    assert first == pytest.approx(second)
    assert first[3] == 90


def test_the_curtain_moves(page: Any) -> None:
    wait(page, ALL_STAINED)
    press(page, "c")
    wait(page, "return restain.panes().length === 1 && !!restain.panes()[0].items.virtual1")
    before = page.execute_script("return restain.curtain()")
    press(page, "]]]")
    assert page.execute_script("return restain.curtain()") == pytest.approx(before + 0.06)
    left = page.execute_script('return parseFloat(document.querySelector(".divide").style.left)')
    assert left == pytest.approx(100 * (before + 0.06))


def test_overlays_lie_over_the_images_that_they_belong_to(
    browser: Any, view: View, look_at: Callable[[View], Client], make_slide: Callable[..., Path], tmp_path: Path
) -> None:
    ihc, matrix = make_slide("ihc.ome.tif", mpp=0.5), tmp_path / "matrix.txt"
    result = result_of(view.slide, view.models[0], view.out)
    virtual = result.name.removesuffix(".ome.tif")
    matrix.write_text("1 0 40\n0 1 24\n")
    stain_slide(load_model(view.models[0]), view.slide, result, view.settings, extra=SlideMaps())
    for name, count in ((virtual, 3), ("ihc", 2)):
        with geojson_file(tmp_path / f"{name}.geojson") as file:
            for x in range(count):
                file.add([[[300 + 40 * x, 200], [320 + 40 * x, 200], [310 + 40 * x, 220]]], {})
    files = tuple(sorted(tmp_path.glob("*.geojson")))
    browser.get(look_at(replace(view, ihc=ihc, transform=matrix, cells=files)).address)
    wait(browser, 'return document.body.dataset.ready === "1"')
    browser.get_log("browser")  # of the page before, whose server has stopped
    press(browser, "tgn")
    wait(
        browser, "return restain.panes().slice(1).every((pane) => pane.cells) && !!restain.panes()[1].shown.trust.image"
    )
    counts = browser.execute_script("return restain.panes().map(({cells}) => cells && cells.outlines.length)")
    assert counts == [None, 3, 2]
    names = browser.execute_script(
        'return [...document.querySelectorAll(".pane .name small")].map((x) => x.textContent)'
    )
    assert "trust" in names[1]
    assert "3 cells" in names[1]
    assert "2 cells" in names[2]
    labels = []
    for _ in range(4):
        press(browser, "c")
        labels.append(browser.execute_script('return restain.panes().map(({name}) => name).join(" + ")'))
    assert len(set(labels)) == 4  # three curtains, and side by side again
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_drawn_rectangle_is_measured_as_the_server_measures_it(page: Any) -> None:
    press(page, "m")
    pane = page.find_elements("css selector", ".pane canvas.marks")[0]
    actions = webdriver.ActionChains(page).move_to_element_with_offset(pane, -60, -60).click_and_hold()
    actions.move_to_element_with_offset(pane, 70, 80).release().perform()
    wait(page, 'return document.querySelectorAll("#figures table td").length > 0')
    shown = page.execute_script('return document.querySelector("#figures tr:nth-child(2) td:nth-child(2)").textContent')
    asked = page.execute_async_script(
        """const done = arguments[0], polygon = restain.panes()[0].shown.region;
        const answer = await fetch("measure", {method: "POST", headers: {"Content-Type": "application/json"},
        body: JSON.stringify({image: "virtual1", polygon})}); done((await answer.json()).figures);"""
    )
    assert shown == f"{100 * asked['positive_area_fraction']:.1f} %"


def test_every_key_does_something_and_nothing_fails(page: Any) -> None:
    wait(page, ALL_STAINED)
    page.get_log("browser")
    for key in "fcc[]rRtxvlwasd1+-?":
        press(page, key)
        time.sleep(0.2)
    page.execute_script('document.getElementById("keys").close()')
    press(page, "\ue00c")  # escape
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_two_windows_and_a_server_that_comes_back(
    browser: Any, view: View, look_at: Callable[[View], Client], stop: Callable[[], None]
) -> None:
    client = look_at(view)
    browser.get(client.address)
    wait(browser, ALL_STAINED)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(client.address)
    wait(browser, ALL_STAINED)
    browser.close()
    browser.switch_to.window(first)
    stop()
    again = look_at(view)
    browser.get(again.address)
    wait(browser, 'return document.body.dataset.ready === "1"')
    assert again("tiles/virtual1/0/3_1").headers["x-whole"] == "1" or wait(browser, ALL_STAINED)


def test_the_page_needs_nothing_from_elsewhere(project: Path) -> None:
    static = project / "restain" / "viewer" / "static"
    for file in static.iterdir():
        if file.suffix in {".html", ".css"} or file.name in {"viewer.js", "tiles.js", "marks.js", "measure.js"}:
            assert "http" not in file.read_text(encoding="utf-8").replace("http://www.w3.org", "")
