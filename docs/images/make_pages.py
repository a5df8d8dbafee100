"""Draw `viewer.jpg` and `report.jpg`: the pages of `restain view` and `restain evaluate`, of drawn tissue, in Chromium.

Run it from the project's root with a trained generator: `python docs/images/make_pages.py MODEL FOLDER`. The folder
gets the drawn tissue and its stains; a second run takes them up again. It needs selenium, Chromium and its driver.
"""

import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver

from restain.models import find_model
from restain.viewer import Server, View, open_view

HERE = Path(__file__).parent
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars"
STAINED = "const s = restain.progress.virtual1; return s && s.phase === 'ready' && s.done > 0 && s.done === s.total"
READY = "return document.body.dataset.ready === '1'"
MEASURED = "return document.querySelectorAll('#figures table td').length > 0"
ZOOM = """for (const {viewer} of restain.panes()) {
  viewer.viewport.zoomTo(3.2, null, true); viewer.viewport.panTo(new OpenSeadragon.Point(0.6, 0.55), true); }"""


def main(model: Path, folder: Path) -> None:
    """Write both pictures beside this script."""
    folder.mkdir(parents=True, exist_ok=True)
    show_viewer(folder, model)
    show_report(folder, model)


def show_viewer(folder: Path, model: Path) -> None:
    """A drawn slide, its virtual stain, and the neighbouring section through its true transform."""
    he, ihc, transform = (
        folder / name for name in ("phantom.ome.tif", "neighbour.ome.tif", "neighbour.transform.json")
    )
    if not transform.exists():
        restain("phantom", "--slide", he, "--neighbour", ihc, "--size", 1536, "--coverage", 0.6, "--seed", 5)
    with open_view(View(he, (model,), ihc=ihc, transform=transform), []) as viewer, browser(1200, 640) as page:
        server = Server(viewer, "127.0.0.1", 0)
        thread = server.start()
        page.get(server.address)
        for script in (READY, STAINED):
            wait(page, script)
        page.execute_script(ZOOM)
        time.sleep(2)
        webdriver.ActionChains(page).send_keys("v").perform()
        wait(page, MEASURED)
        time.sleep(1)
        save(page, "viewer.jpg")
        server.close()
        thread.join()


def show_report(folder: Path, model: Path) -> None:
    """The head of the report on held-out drawn tiles, and its first examples."""
    pairs, virtual, report = folder / "pairs", folder / "virtual", folder / "report.html"
    held_out = pairs / "TrainValAB"
    if not pairs.exists():
        restain("phantom", pairs, "--pairs", 16, "--validation", 12, "--size", 256)
    restain("stain", held_out / "valA", "--model", model, "--out", virtual, "--overwrite")
    restain("evaluate", "--virtual", virtual, "--real", held_out / "valB_aligned", "--he", held_out / "valA",
            "--html", report)  # fmt: skip
    with browser(1100, 700) as page:
        page.get(report.as_uri())
        time.sleep(1)
        save(page, "report.jpg")


def restain(*words: object) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", "restain.cli", *map(str, words)], check=True)


@contextmanager
def browser(width: int, height: int) -> Iterator[Any]:
    """A headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS.split(), f"--window-size={width},{height}", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        yield driver
        driver.quit()


def wait(page: Any, script: str) -> None:
    """Until a script gives something true."""
    end = time.monotonic() + 1800
    while not page.execute_script(script):
        if time.monotonic() > end:
            raise TimeoutError(script)
        time.sleep(0.3)


def save(page: Any, name: str) -> None:
    """What is seen now."""
    Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB").save(HERE / name, quality=82, optimize=True)


if __name__ == "__main__":
    main(find_model(sys.argv[1]), Path(sys.argv[2]))
