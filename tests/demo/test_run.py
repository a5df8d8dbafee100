"""The demo from end to end, small: everything is made once, and what was made is not made again."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from restain.data.phantom import NeighbourSettings
from restain.demo import run, tissue
from restain.demo.pictures import own_row
from restain.demo.run import run_demo
from restain.demo.stages import Journal, Tell
from restain.errors import InputError, OutputError
from restain.image import save_image
from restain.workers.interrupts import SIGNALS
from restain.workers.lock import locked
from tests.forked import begin_command

SMALL = ("data.crop_px=64", "data.batch_size=1", "model.discriminator_width=4", "training.log_every_steps=1")


@pytest.fixture(scope="module")
def small() -> Any:
    """Small slides and two steps, in place of the demo's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tissue, "TILE_PX", 64)
        patch.setattr(tissue, "LEARNT_PX", 896)
        patch.setattr(tissue, "JUDGED_PX", 384)
        patch.setattr(tissue, "BESIDE", NeighbourSettings(depth_um=0, angle=1, bend_um=5))
        patch.setattr(run, "PAIR_PX", 128)
        patch.setattr(run, "STEPS", 2)
        patch.setattr(run, "SETTINGS", (*run.SETTINGS, *SMALL))
        yield patch


@pytest.fixture(scope="module")
def demo(small: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished demo."""
    out = tmp_path_factory.mktemp("demo") / "out"
    assert run_demo(out, seed=3) == out / "index.html"
    return out


def test_the_page_shows_all_that_was_done(demo: Path) -> None:
    page = (demo / "index.html").read_text(encoding="utf-8")
    for words in (
        "phantom-her2",
        "restain pairs cut",
        "--init phantom-her2",
        "--set seed=3",
        "tiles kept",
        "restain view",
    ):
        assert words in page
    for key in ("starter", "tuned", "scratch"):
        assert (demo / "stained" / f"{key}.ome.tif").is_file()
        assert list((demo / "tiles" / key).iterdir())
    assert "Under way" not in page


def test_what_is_done_is_not_done_again(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("was done before")

    for name in ("train", "stain_files", "stain_slide"):
        monkeypatch.setattr(run, name, refuse)
    monkeypatch.setattr(tissue, "write_slide", refuse)
    before = (demo / "index.html").read_text(encoding="utf-8")
    (demo / "index.html").unlink()
    run_demo(demo, seed=3)
    after = (demo / "index.html").read_text(encoding="utf-8")
    assert after[: after.index("How this was made")] == before[: before.index("How this was made")]


def test_a_folder_of_another_seed_or_with_other_things_is_refused(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds the demo of seed 3; give another folder, or that seed"):
        run_demo(demo, seed=4)
    with locked(demo, "busy"), pytest.raises(OutputError, match="another demo is running in"):
        run_demo(demo, seed=3)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no demo"):
        run_demo(tmp_path)


def test_a_demo_killed_in_its_first_stage_goes_on(
    small: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it writes tiles; the second time when the page is there. The page stays, half a tile does not."""

    class Killed(BaseException):
        """Nothing after it happens."""

    def write_one(path: Path, rgb: Any) -> None:
        save_image(path, rgb)
        raise Killed

    def die(*_: object, **__: object) -> None:
        raise Killed

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tissue, "save_image", write_one)
        with pytest.raises(Killed):
            run_demo(out)
    assert not (out / "first").exists()
    monkeypatch.setattr(tissue, "write_slide", die)
    with pytest.raises(Killed):
        run_demo(out)
    assert len(list((out / "first/he").iterdir())) == 4
    assert "Under way" in (out / "index.html").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals of POSIX")
def test_a_request_to_stop_is_answered_and_two_at_once_do_not_mix(small: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in SIGNALS:
        told = tmp_path / f"told-{number}"
        told.touch()
        process = begin_command(["demo", "--out", out], told)
        while "Draw one tile" not in process.told and process.poll() is None:
            time.sleep(0.005)
        if number == SIGNALS[0]:
            os.kill(process.pid, signal.SIGSTOP)
            second = begin_command(["demo", "--out", out], tmp_path / "told2")
            assert second.wait() == 1
            assert f"another demo is running in {out}" in " ".join(second.told.split())
            os.kill(process.pid, signal.SIGCONT)
        os.killpg(process.pid, number)
        assert process.wait() == 128 + number
        assert "run the same command to resume" in process.told
        assert not process.members()
        assert not (out / "first").exists()
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [".lock"]


def test_a_stage_counts_every_attempt_and_is_finished_once(tmp_path: Path) -> None:
    def fail(_: Tell) -> None:
        raise ZeroDivisionError

    first = Journal(tmp_path / "out", 0)
    with pytest.raises(ZeroDivisionError):
        first.once("work", "", fail)
    done: list[int] = []

    def work(tell: Callable[[int, int], None]) -> None:
        tell(1, 2)
        done.append(1)

    second = Journal(tmp_path / "out", 0)
    second.once("work", "restain work", work)
    assert second.stages[0].seconds >= first.seconds["work"]
    third = Journal(tmp_path / "out", 0)
    third.once("work", "restain work", work)
    assert done == [1]
    assert third.stages == second.stages


def test_of_a_users_image_the_part_with_most_tissue_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restain.demo.pictures.OWN_PX", 128)
    image = np.full((512, 640, 3), 242, np.uint8)
    image[192:512, 384:640] = (200, 90, 160)
    Image.fromarray(image).save(tmp_path / "he.png")
    row = own_row(tmp_path / "he.png", None, {"virtual": "colon-panck"})
    assert "0.5 µm" in row.caption
    assert (row.images["H&E"] == (200, 90, 160)).mean() > 0.99
    assert row.images["virtual"].shape == (128, 128, 3)
    finer = own_row(tmp_path / "he.png", 1.0, {})
    assert finer.images["H&E"].shape == (128, 128, 3)
    Image.fromarray(np.full((512, 640, 3), 242, np.uint8)).save(tmp_path / "glass.png")
    with pytest.raises(InputError, match="tissue"):
        own_row(tmp_path / "glass.png", None, {})
