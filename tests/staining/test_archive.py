"""Many slides: each a unit of its own, found in folders and tables, shared out over machines."""

import faulthandler
import multiprocessing
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile

from restain.checkpoint import save_checkpoint
from restain.cli import main
from restain.errors import InputError, InUseError, MissingError, RestainError
from restain.networks.generator import Generator, GeneratorConfig
from restain.slides.kinds import is_slide
from restain.slides.spool import Spool
from restain.staining.archive import _stain, stain_slides
from restain.staining.inputs import SlideJob, find_slides, shard
from restain.staining.settings import SlideReport, SlideSettings
from restain.staining.slide import stain_slide
from restain.workers import processes
from restain.workers.pool import Processes

MakeSlide = Callable[..., Path]


def test_slides_are_found_in_folders_and_tables(tmp_path: Path) -> None:
    for name in ("a/1.svs", "a/b/2.ome.tif", "a/notes.txt", "out/1.ome.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text("slide,mpp,name\na/1.svs,0.25,first\na/b/2.ome.tif,,\n")
    out = tmp_path / "out"
    assert [job.target for job in find_slides([tmp_path / "a"], out)] == [out / "1.ome.tif", out / "b/2.ome.tif"]
    assert find_slides([tmp_path / "list.csv"], out) == [
        SlideJob(tmp_path / "a/1.svs", out / "first.ome.tif", 0.25),
        SlideJob(tmp_path / "a/b/2.ome.tif", out / "2.ome.tif"),
    ]
    jobs = find_slides([tmp_path / "list.csv"], out)
    for text in (
        "Slide, MPP, Name\r\na/1.svs, 0.25, first\r\na/b/2.ome.tif\r\n",
        "slide;mpp;name\na/1.svs;0.25;first\na/b/2.ome.tif;;\n",
    ):
        (tmp_path / "list.csv").write_text(text, encoding="utf-8-sig")
        assert find_slides([tmp_path / "list.csv"], out) == jobs
    assert [job.source.name for job in find_slides([tmp_path], out)] == ["1.svs", "2.ome.tif"]
    assert is_slide(Path("A.SVS"))
    assert not is_slide(Path("a.tif"))


def test_what_is_no_slide_to_stain_is_passed_over(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    he = make_slide("slides/he.ome.tif")
    stain_slides(checkpoint, [SlideJob(he, he.with_name("he-her2.ome.tif"))], SlideSettings(tile_px=128))
    for name in ("._he.ome.tif", "x.ome.tif.spool/whole.tif", ".trash/old.svs"):
        shutil.copy(he, make_folder(he.parent / name))
    for name in ("1.dcm", "2.dcm", "3.dcm"):
        (he.parent / name).touch()
    series = {"1.dcm": "1.2.3", "2.dcm": "1.2.3", "3.dcm": "1.2.4"}
    monkeypatch.setattr("restain.staining.inputs.dicom_series", lambda path: series[path.name])
    found = [job.source.name for job in find_slides([he.parent], tmp_path / "out")]
    assert found == ["1.dcm", "3.dcm", "he.ome.tif"]
    with pytest.raises(InputError, match="is the folder of the slides; choose another one"):
        find_slides([he.parent], he.parent)


def make_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("words", [{}, {"bigtiff": True}, {"byteorder": ">"}])
def test_a_tiff_in_tiles_is_a_slide_and_one_in_strips_is_not(tmp_path: Path, words: dict[str, Any]) -> None:
    rgb = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(tmp_path / "tiles.tif", rgb, photometric="rgb", tile=(32, 32), **words)
    tifffile.imwrite(tmp_path / "strips.tif", rgb, photometric="rgb", **words)
    (tmp_path / "none.tif").write_bytes(b"II")
    assert [path.name for path in sorted(tmp_path.iterdir()) if is_slide(path)] == ["tiles.tif"]
    assert [job.source.name for job in find_slides([tmp_path], tmp_path / "out")] == ["tiles.tif"]


def test_what_is_wrong_with_a_list_is_said(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("file\na.svs\n")
    with pytest.raises(InputError, match="needs a first line with a column 'slide'"):
        find_slides([tmp_path / "l.csv"], tmp_path)
    (tmp_path / "l.csv").write_text("slide,mpp\na.svs,fine\n")
    with pytest.raises(InputError, match="line 2: mpp 'fine' is not a number"):
        find_slides([tmp_path / "l.csv"], tmp_path)
    for mpp in (0, -1, "nan"):
        (tmp_path / "l.csv").write_text(f"slide,mpp\na.svs,{mpp}\n")
        with pytest.raises(InputError, match=f"line 2: mpp {mpp} is out of range; expected 0.05 to 10"):
            find_slides([tmp_path / "l.csv"], tmp_path)
    for row in (",0.5", '""', "  "):
        (tmp_path / "l.csv").write_text(f"mpp,name,slide\n,,a.svs\n\n0.5,b,{row}\n0.5\n")
        with pytest.raises(InputError, match="line 4: no slide; name its file in the column 'slide'"):
            find_slides([tmp_path / "l.csv"], tmp_path)
    (tmp_path / "l.csv").write_text("mpp,slide\n0.5\n")
    with pytest.raises(InputError, match="line 2: no slide"):
        find_slides([tmp_path / "l.csv"], tmp_path)
    (tmp_path / "l.csv").write_text("slide\na.svs\nb/a.svs\n")
    with pytest.raises(InputError, match="would both become"):
        find_slides([tmp_path / "l.csv"], tmp_path)
    (tmp_path / "l.csv").write_text("slide,mpp\na.svs,0.25\na.svs,0.5\n")
    with pytest.raises(InputError, match=r"a\.svs is given twice, with mpp 0\.25 and with 0\.5"):
        find_slides([tmp_path / "l.csv"], tmp_path)
    (tmp_path / "l.csv").write_text("slide,mpp\na.svs,0,25\n")
    with pytest.raises(InputError, match="line 2 has more values"):
        find_slides([tmp_path / "l.csv"], tmp_path)
    with pytest.raises(MissingError, match="does not exist"):
        find_slides([tmp_path / "none"], tmp_path)
    with pytest.raises(InputError, match="holds no slides"):
        find_slides([tmp_path], tmp_path / "out")


def test_shares_are_disjoint_and_together_all() -> None:
    jobs = [SlideJob(Path(f"{n}.svs"), Path(f"{n}.ome.tif")) for n in range(7)]
    shares = [shard(jobs, f"{index}/3") for index in range(3)]
    assert sorted((job for share in shares for job in share), key=jobs.index) == jobs
    for wrong in ("3/3", "1", "a/b", "-1/2"):
        with pytest.raises(InputError, match="expected i/n"):
            shard(jobs, wrong)


def test_bad_slides_are_told_at_the_end_and_finished_ones_are_skipped(
    make_slide: MakeSlide,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "he").mkdir()
    make_slide().rename(tmp_path / "he/good.ome.tif")
    (tmp_path / "he/bad.svs").write_text("no slide")
    (tmp_path / "he/overview.png").touch()
    words = ["stain-slides", tmp_path / "he", "--model", checkpoint, "--out", tmp_path / "out", "--tile-px", "128"]
    monkeypatch.setattr(sys, "argv", ["restain", *map(str, words), "--device", "cpu"])
    for already in ("", ", 1 of them earlier"):
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 1
        printed = capsys.readouterr()
        assert f"not stained: {tmp_path / 'he/bad.svs'} cannot be read as a slide" in printed.err
        assert "1 plain images in the same folders are not stained" in printed.err
        assert ("good.ome.tif: 8 µm per px, from" in printed.err) == (not already)
        assert f"1 of 2 slides are stained{already}, in {tmp_path / 'out'}" in printed.out
    assert (tmp_path / "out/good.ome.tif").exists()


def test_the_result_of_another_model_is_not_taken_for_finished(
    make_slide: MakeSlide, checkpoint: Path, tmp_path: Path
) -> None:
    jobs = [SlideJob(make_slide(), tmp_path / "out.ome.tif")]
    settings = SlideSettings(tile_px=128)
    assert not stain_slides(checkpoint, jobs, settings).failures
    renamed = shutil.copy(checkpoint, tmp_path / "renamed.safetensors")
    (report,) = stain_slides(Path(renamed), jobs, settings).reports
    assert report.skipped
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, Generator(GeneratorConfig(width=2, blocks=1)), method="cut", mpp=8.0)
    (failure,) = stain_slides(other, jobs, settings).failures.values()
    assert "exists and is another result" in str(failure)
    (report,) = stain_slides(other, jobs, settings, overwrite=True).reports
    assert not report.skipped


def test_an_odd_failure_does_not_stop_the_others(
    make_slide: MakeSlide, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object, source: Path, *__: object, **___: object) -> SlideReport:
        if source.name == "odd.svs":
            raise ZeroDivisionError("oh")
        return SlideReport(source)

    monkeypatch.setattr("restain.staining.archive.stain_slide", fail)
    jobs = [SlideJob(tmp_path / name, tmp_path / f"{name}.ome.tif") for name in ("odd.svs", "good.svs")]
    outcome = stain_slides(checkpoint, jobs, SlideSettings())
    assert "odd.svs: unexpected ZeroDivisionError" in str(outcome.failures[tmp_path / "odd.svs"])
    assert len(outcome.reports) == 1


@pytest.mark.parametrize("finishes", [False, True])
def test_a_slide_that_another_process_has_begun_is_awaited(
    make_slide: MakeSlide, checkpoint: Path, tmp_path: Path, finishes: bool
) -> None:
    """The others come first; then it is stained here if the other process did not finish it."""
    settings = SlideSettings(tile_px=128)
    jobs = [SlideJob(make_slide(f"{n}.ome.tif"), tmp_path / f"out/{n}.ome.tif") for n in "ab"]
    ready = stain_slide(checkpoint, jobs[0].source, tmp_path / "ready.ome.tif", settings).path if finishes else None
    begun, told = multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.Process(target=_have_in_hand, args=(jobs[0].target, begun, told, ready))
    other.start()
    assert begun.wait(60)
    done: list[str] = []

    def tell(held: list[SlideJob]) -> None:
        done.append(f"waits for {' '.join(job.source.name for job in held)}")
        told.set()

    outcome = stain_slides(
        checkpoint, jobs, settings, on_slide=lambda job, _: done.append(job.source.name), on_wait=tell
    )
    other.join()
    assert done == ["b.ome.tif", "waits for a.ome.tif", "a.ome.tif"]
    assert not outcome.failures
    assert [report.skipped for report in outcome.reports] == [False, finishes]
    assert {path.name for path in (tmp_path / "out").glob("*.ome.tif*")} == {f"{n}.ome.tif" for n in "ab"}


def _have_in_hand(target: Path, begun: Event, told: Event, ready: Path | None) -> None:
    """Begin a slide, and finish it or not a while after it is awaited.

    In a process of its own, because forks of the process with the spool would never see its lock released.
    """
    spool = Spool(target, "another process")
    begun.set()
    told.wait(60)
    time.sleep(0.5)
    if ready:
        ready.rename(target)
        spool.remove()


def test_that_a_file_is_in_use_is_told_across_processes() -> None:
    error = pickle.loads(pickle.dumps(InUseError(Path("a b.ome.tif"))))
    assert isinstance(error, InUseError)
    assert str(error) == "a b.ome.tif is being written by another process; wait for it or end it"
    assert error.target == Path("a b.ome.tif")


@pytest.mark.parametrize("after", [1, 3])
def test_killed_processes_lose_no_slide(make_slide: MakeSlide, checkpoint: Path, tmp_path: Path, after: int) -> None:
    """Killed in the middle of their slides, or when all are done: the rest is stained, and nothing waits for ever."""
    jobs = [SlideJob(make_slide(f"{n}.ome.tif"), tmp_path / f"out/{n}.ome.tif") for n in range(3)]
    done, killed = [], []

    def kill(job: SlideJob, _: object) -> None:
        done.append(job)
        if len(done) == after:
            killed.extend(multiprocessing.active_children())
            for process in killed:
                process.kill()
                process.join()

    outcome = stain_slides(checkpoint, jobs, SlideSettings(tile_px=128), pool=Processes(2), on_slide=kill)
    assert len(killed) == 2
    assert not outcome.failures
    assert {report.path for report in outcome.reports} == {job.target for job in jobs}
    assert all(job.target.exists() for job in jobs)


def test_a_slide_that_always_kills_is_given_up(
    make_slide: MakeSlide, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restain.staining.archive._stain", _die_of_the_odd)
    jobs = [SlideJob(tmp_path / f"{name}.svs", tmp_path / f"{name}.ome.tif") for name in ("odd", "good", "better")]
    outcome = stain_slides(checkpoint, jobs, pool=Processes(2))
    assert {report.path.name for report in outcome.reports} == {"good.svs", "better.svs"}
    assert "3 times" in str(outcome.failures[tmp_path / "odd.svs"])


@pytest.mark.skipif(processes.CONTEXT.get_start_method() != "fork", reason="the process would not know of the abort")
def test_a_slide_that_aborts_at_a_tile_stops_no_other(
    make_slide: MakeSlide, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens well, and OpenSlide ends the process at a tile further on, one by one too."""
    read = openslide.OpenSlide.read_region

    def read_or_abort(slide: Any, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
        if Path(slide._filename).name == "odd.ome.tif" and level == 0 and corner[0] > 400:
            faulthandler.disable()
            os.abort()
        return read(slide, corner, level, size)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", read_or_abort)
    jobs = [SlideJob(make_slide(f"{name}.ome.tif"), tmp_path / f"{name}.out.ome.tif") for name in ("odd", "good")]
    outcome = stain_slides(checkpoint, jobs, SlideSettings(tile_px=128))
    assert [report.path for report in outcome.reports] == [tmp_path / "good.out.ome.tif"]
    assert "damaged" in str(outcome.failures[jobs[0].source])


def _die_of_the_odd(_: Path, __: str, job: SlideJob, *___: object) -> SlideReport:
    if job.source.name == "odd.svs":
        os._exit(9)
    return SlideReport(job.source)


def test_a_model_that_is_replaced_is_loaded_again(make_slide: MakeSlide, checkpoint: Path, tmp_path: Path) -> None:
    jobs = [SlideJob(make_slide(), tmp_path / "out.ome.tif")]
    assert not stain_slides(checkpoint, jobs, SlideSettings(tile_px=128)).failures
    save_checkpoint(checkpoint, Generator(GeneratorConfig(width=2, blocks=1)), method="cut", mpp=8.0)
    (report,) = stain_slides(checkpoint, jobs, SlideSettings(tile_px=128), overwrite=True).reports
    assert not report.skipped


def test_a_wrong_model_is_told_before_any_slide(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"gone\.safetensors"):
        stain_slides(tmp_path / "gone.safetensors", [], pool=Processes(2))


def test_one_call_does_not_stain_by_two_models(make_slide: MakeSlide, checkpoint: Path, tmp_path: Path) -> None:
    """A process that begins later finds what a training has saved since."""
    job = SlideJob(make_slide(), tmp_path / "out.ome.tif")
    found = _stain(checkpoint, "of the first slide", job, SlideSettings(), "cpu", False, None, None)
    assert isinstance(found, RestainError)
    assert "was replaced while" in str(found)
    assert not job.target.exists()
