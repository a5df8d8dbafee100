import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from restain.data.layouts import find_layout
from restain.data.pairs import PairedTiles
from restain.errors import ConfigError, OutputError
from restain.image import load_image, save_image, to_uint8
from restain.registration.field import field_of
from restain.registration.tile_pairs import AlignSettings, align_pair, plan
from restain.registration.tile_set import JOURNAL, align_data_set, write_table
from restain.workers.pool import Processes
from tests.registration.conftest import Section

SIDE_PX = 144
SETTINGS = AlignSettings(mpp=0.5)


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    section = Section(0, SIDE_PX)
    shifted = field_of(lambda points: points + [6.0, -4.0] + np.sin(points / 30), section.box, 16.0)  # noqa: RUF005
    other = Section(1, SIDE_PX).ihc
    tensors = {"he": section.he, "ihc": section.displaced(shifted), "aligned": section.ihc, "other": other}
    return {name: to_uint8(image)[0] for name, image in tensors.items()}


@pytest.fixture(scope="module")
def mist(tmp_path_factory: pytest.TempPathFactory, images: dict[str, np.ndarray]) -> Path:
    """Two pairs of the same tissue and one of other tissue, with the truth beside one part."""
    root = tmp_path_factory.mktemp("data") / "mist"
    for split, name, ihc in (("train", "a_1+", "ihc"), ("train", "b_2+", "other"), ("val", "c_3+", "ihc")):
        save_image(root / f"{split}A" / f"{name}.png", images["he"])
        save_image(root / f"{split}B" / f"{name}.png", images[ihc])
        if split == "val":
            save_image(root / "valB_aligned" / f"{name}.png", images["aligned"])
    return root


@pytest.fixture(scope="module")
def out(mist: Path) -> Path:
    """These pairs, aligned."""
    folder = mist.with_name("out")
    assert [row.verdict for row in align_data_set(mist, folder, SETTINGS).rows] == ["aligned", "kept", "aligned"]
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_pairs_come_out_in_register_under_their_names(mist: Path, out: Path) -> None:
    assert find_layout(out).name == "CSV"
    train, val = PairedTiles(out, "train"), PairedTiles(out, "val")
    assert (train.names, train.grades) == (["a_1+", "b_2+"], [1, 2])
    assert (val.names, val.grades) == (["c_3+"], [3])
    pair = val.files[0]
    assert pair.he.relative_to(out) == Path("valA/c_3+.png")
    judge = pair.in_register()
    assert judge is not None
    warped, truth = (load_image(path).astype(float) for path in (pair.ihc, judge.ihc))
    assert warped.shape == truth.shape
    assert min(warped.shape[:2]) >= 0.75 * SIDE_PX
    before = np.abs(
        load_image(mist / "valB/c_3+.png").astype(float) - load_image(mist / "valB_aligned/c_3+.png")
    ).mean()
    assert np.abs(warped - truth).mean() < 0.2 * before


def test_the_table_tells_what_became_of_each(mist: Path, out: Path) -> None:
    aligned, kept, _ = table(out / "pairs.csv")
    assert (aligned["he"], aligned["ihc"], aligned["split"]) == ("trainA/a_1+.png", "trainB/a_1+.png", "train")
    assert float(aligned["residual_um"]) == pytest.approx(float(aligned["residual_px"]) / 2, abs=1e-3)
    assert float(aligned["correlation_after"]) > float(aligned["correlation_before"])
    assert float(aligned["smallest_determinant"]) > 0
    assert (aligned["verdict"], aligned["why"]) == ("aligned", "")
    assert kept["verdict"] == "kept"
    assert "no common tissue" in kept["why"]
    assert load_image(out / kept["ihc"]).tobytes() == load_image(mist / "trainB/b_2+.png").tobytes()


def test_pairs_that_cannot_be_believed_are_left_out_where_that_is_asked(mist: Path, tmp_path: Path) -> None:
    aligned, other, _ = plan(mist)
    row = align_pair(other, tmp_path, AlignSettings(drop_below=0.3))
    assert (row.verdict, row.he, row.ihc) == ("left out", "", "")
    assert "no common tissue" in row.why
    assert align_pair(aligned, tmp_path, AlignSettings(drop_below=0.99)).verdict == "left out"
    assert not any(tmp_path.iterdir())
    write_table(tmp_path / "left_out.csv", [row])
    assert table(tmp_path / "left_out.csv")[0]["why"] == row.why
    write_table(tmp_path / "left_out.csv", [])
    assert not (tmp_path / "left_out.csv").exists()


def test_squares_of_one_size(mist: Path, tmp_path: Path) -> None:
    aligned, other, _ = plan(mist)
    for place in (aligned, other):
        assert align_pair(place, tmp_path, AlignSettings(size_px=96)).he
    assert {load_image(path).shape for path in tmp_path.rglob("*.png")} == {(96, 96, 3)}
    assert align_pair(aligned, tmp_path, AlignSettings(size_px=SIDE_PX)).verdict == "left out"


def test_an_interrupted_run_resumes_to_the_same_result(mist: Path, out: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(out, broken)
    journal = broken / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:40])  # as killed while it wrote the second pair
    (broken / "pairs.csv").unlink()
    (broken / "valB" / "c_3+.png").unlink()
    seen: list[tuple[int, int]] = []
    align_data_set(mist, broken, SETTINGS, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert contents(broken) == contents(out)


def test_a_pair_that_has_changed_since_is_done_again(images: dict[str, np.ndarray], tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    save_image(data / "he/x.png", images["he"])
    save_image(data / "ihc/x.png", images["other"])
    (data / "pairs.csv").write_text("he,ihc,case,grade,split\nhe/x.png,ihc/x.png,p7,2+,val\n")
    assert [row.verdict for row in align_data_set(data, out, SETTINGS).rows] == ["kept"]
    save_image(data / "ihc/x.png", images["ihc"])
    assert [row.verdict for row in align_data_set(data, out, SETTINGS).rows] == ["aligned"]
    (data / "pairs.csv").write_text("he,ihc,case,grade,split\nhe/x.png,ihc/x.png,p8,3+,val\n")
    align_data_set(data, out, SETTINGS)
    (row,) = table(out / "pairs.csv")
    assert (row["case"], row["grade"]) == ("p8", "3+")
    before = (out / JOURNAL).read_bytes()
    seen: list[tuple[int, int]] = []
    align_data_set(data, out, SETTINGS, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
    assert (out / JOURNAL).read_bytes() == before


def test_processes_give_the_same(mist: Path, out: Path, tmp_path: Path) -> None:
    align_data_set(mist, tmp_path / "two", SETTINGS, pool=Processes(2))
    assert contents(tmp_path / "two") == contents(out)


def test_a_pair_that_fails_does_not_stop_the_others(mist: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(mist, data)
    (data / "trainB" / "a_1+.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 30)
    outcome = align_data_set(data, tmp_path / "out")
    assert list(outcome.failures) == ["train/a_1+"]
    assert "a_1+.png" in outcome.failures["train/a_1+"]
    assert [row.name for row in outcome.rows] == ["train/b_2+", "val/c_3+"]


def test_other_folders_are_left_alone(mist: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        align_data_set(mist, tmp_path)
    with pytest.raises(OutputError, match="inside the data set"):
        align_data_set(mist, mist / "aligned")
    with pytest.raises(OutputError, match="other settings"):
        align_data_set(mist, out, AlignSettings(size_px=128))


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"size_px": 3}, {"mpp": 0.0}, {"drop_below": 1.5}):
        with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
            AlignSettings(**wrong)  # type: ignore[arg-type]


def test_every_layout_keeps_its_own(tmp_path: Path, images: dict[str, np.ndarray]) -> None:
    he, ihc = images["he"], images["ihc"]
    for side, image in (("HE", he), ("IHC", ihc)):
        save_image(tmp_path / f"bci/{side}/train/x_0.png", image)
    for side, image in (("he", he), ("ihc", ihc)):
        save_image(tmp_path / f"plain/{side}/x.png", image)
    save_image(tmp_path / "both/train/x.png", np.concatenate([he, ihc], axis=1))
    shutil.copytree(tmp_path / "plain", tmp_path / "list")
    (tmp_path / "list/pairs.csv").write_text("he,ihc,case,grade,split\nhe/x.png,ihc/x.png,p7,2+,val\n")
    save_image(tmp_path / "listed_both/x.png", np.concatenate([he, ihc], axis=1))
    (tmp_path / "listed_both/pairs.csv").write_text("he,ihc,case,grade\nx.png,x.png,p7,2+\n")
    expected = {
        "bci": ("HE/train/x_0.png", "IHC/train/x_0.png"),
        "plain": ("he/x.png", "ihc/x.png"),
        "both": ("train/x.png", "train/x.png"),
        "list": ("val/he/x.png", "val/ihc/x.png"),
        "listed_both": ("both/x.png", "both/x.png"),
    }
    for name, files in expected.items():
        (place,) = plan(tmp_path / name)
        row = align_pair(place, tmp_path / f"{name}_out", AlignSettings())
        assert row.verdict == "aligned"
        assert (row.he, row.ihc) == files
        size = load_image(tmp_path / f"{name}_out" / row.he).shape
        assert size[1] == (2 * size[0] if "both" in name else row.width_px)
        if "list" in name:
            assert (row.case, row.grade, row.split) == ("p7", "2+", "val" if name == "list" else "")
