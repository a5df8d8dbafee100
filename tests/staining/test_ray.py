"""Many slides on Ray: a worker that is killed in the middle of a slide loses nothing."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest

from restain.cli import main
from restain.errors import InputError, RestainError
from restain.slides.codec import Codec
from restain.staining.archive import stain_slides
from restain.staining.inputs import SlideJob
from restain.staining.model import load_model
from restain.staining.settings import SlideReport, SlideSettings
from restain.staining.slide import stain_slide
from restain.workers.ray import Cluster, connected

MakeSlide = Callable[..., Path]
SETTINGS = SlideSettings(tile_px=32, codec=Codec("lossless"))  # 130 tiles a slide, so that a kill comes in between


def writer_of(spool: Path) -> int | None:
    """The process that has the spool of a slide open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = {str(link.readlink()) for link in (process / "fd").iterdir()}
        except OSError:  # gone, or somebody else's
            continue
        if str(spool) in opened:
            return int(process.name)
    return None


def kill_writer_of(spool: Path, killed: list[int]) -> None:
    """Wait until tiles are written, then kill who writes them."""
    written = spool.with_name(f"{spool.name}-wal")
    for _ in range(20_000):
        if written.exists() and written.stat().st_size > 50_000 and (process := writer_of(spool)):
            os.kill(process, signal.SIGKILL)
            killed.append(process)
            return
        time.sleep(0.003)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds the worker to kill in /proc")
def test_a_killed_worker_loses_no_slide(
    make_slide: MakeSlide, checkpoint: Path, tmp_path: Path, cluster: Cluster
) -> None:
    jobs = [SlideJob(make_slide(f"{n}.ome.tif"), tmp_path / f"out/{n}.ome.tif") for n in range(2)]
    (tmp_path / "bad.svs").write_text("no slide")
    jobs.insert(1, SlideJob(tmp_path / "bad.svs", tmp_path / "out/bad.ome.tif"))
    killed: list[int] = []
    told: list[SlideReport | RestainError] = []
    killer = threading.Thread(
        target=kill_writer_of, args=(tmp_path / "out/0.ome.tif.spool/tiles.sqlite", killed), daemon=True
    )
    killer.start()
    outcome = stain_slides(checkpoint, jobs, SETTINGS, pool=cluster, on_slide=lambda _, result: told.append(result))
    assert killed
    assert len(told) == 3
    assert list(outcome.failures) == [tmp_path / "bad.svs"]
    again = {report.path.name: "resumes an earlier run" in report.notes for report in outcome.reports}
    assert again == {"0.ome.tif": True, "1.ome.tif": False}
    assert not list((tmp_path / "out").glob("*.spool"))
    stain_slide(load_model(checkpoint), jobs[0].source, tmp_path / "alone.ome.tif", SETTINGS)
    pixels = []
    for path in (tmp_path / "out/0.ome.tif", tmp_path / "alone.ome.tif"):
        with openslide.OpenSlide(path) as slide:
            pixels.append(np.asarray(slide.read_region((0, 0), 0, slide.dimensions)).astype(int))
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_without_ray_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"restain\[ray\]"), connected("local"):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_where_no_cluster_is_it_says_so(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'restain[ray]'")
    with pytest.raises(InputError, match=f"{address} .* or 'local'"), connected(address):
        pass


def test_ray_is_for_many_slides(
    make_slide: MakeSlide,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["stain-slides", make_slide(), "--model", checkpoint, "--out", tmp_path / "out.ome.tif", "--ray", "local"]
    monkeypatch.setattr(sys, "argv", ["restain", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "--ray is for many slides, with a folder as --out" in capsys.readouterr().err
