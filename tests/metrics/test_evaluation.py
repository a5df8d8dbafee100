"""Folders in, figures out: pairing, batches, JSON, and what is refused in one sentence."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.testing import assert_close

from restain import image
from restain.errors import InputError, MissingError, OutputError
from restain.image import save_image, to_tensor, to_uint8
from restain.metrics import METRICS, difference, evaluate, tabulate, tiles
from restain.metrics.colours import stain_vectors_of
from restain.metrics.comparison import verdict
from restain.metrics.interval import bootstrap, interval, samples
from restain.metrics.similarity import psnr
from restain.stains import STAIN_VECTORS, beer_lambert, from_unit, to_unit


def picture(seed: int, height: int = 24, width: int = 20) -> NDArray[np.uint8]:
    """Brown and blue blobs on white."""
    random = np.random.default_rng(seed)
    amount = np.kron(random.random((2, height // 4, width // 4)), np.ones((4, 4)))
    density = np.einsum("shw,sc->hwc", amount * [[[0.5]], [[0.6]]], [[0.65, 0.70, 0.29], [0.27, 0.57, 0.78]])
    return (255 * 10**-density).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Four tiles of two sizes; the virtual ones are noisy versions of the real ones."""
    random = np.random.default_rng(0)
    virtual, real = tmp_path / "virtual", tmp_path / "real"
    for index, size in enumerate([(24, 20), (24, 20), (20, 24), (24, 20)]):
        rgb = picture(index, *size)
        noisy = np.clip(rgb + random.normal(0, 10 + 5 * index, rgb.shape), 0, 255).astype(np.uint8)
        save_image(real / f"tile{index}.png", rgb)
        save_image(virtual / f"tile{index}.tif", noisy)
    return virtual, real


def test_figures_are_those_of_the_tiles(folders: tuple[Path, Path]) -> None:
    found = evaluate(*folders)
    assert found.names == ("tile0", "tile1", "tile2", "tile3")
    assert list(found.figures) == [
        name for name, metric in METRICS.items() if not metric.smallest_px and metric.partner == "real"
    ]
    assert found.notes == (
        "MS-SSIM, RGB: needs sides of at least 161 px; the shortest is 20 px.",
        "Haematoxylin of the H&E, Pearson R: needs the H&E images (he).",
    )
    for index, name in enumerate(found.names):
        virtual, real = (
            to_unit(to_tensor(image.load_image(folder / f"{name}{ending}")))
            for folder, ending in zip(folders, (".tif", ".png"), strict=True)
        )
        assert_close(found.columns["psnr"][index].item(), psnr(virtual, real).item(), rtol=1e-6, atol=0)
    assert_close(found.figures["psnr"].value, found.columns["psnr"].mean().item())
    expected = np.corrcoef(found.columns["dab_virtual"], found.columns["dab_real"])[0, 1]
    assert_close(found.figures["dab_r"].value, float(expected))
    for figure in found.figures.values():
        assert figure.low <= figure.value <= figure.high


def test_batches_do_not_change_anything_and_each_image_is_decoded_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = evaluate(*folders)
    decoded: list[Path] = []

    def count(path: Path) -> NDArray[np.uint8]:
        decoded.append(path)
        return image.load_image(path)

    monkeypatch.setattr(tiles, "BATCH_PX", 1)
    monkeypatch.setattr(tiles, "load_image", count)
    progress: list[tuple[int, int]] = []
    alone = evaluate(*folders, on_progress=lambda done, total: progress.append((done, total)))
    for column, values in together.columns.items():
        assert_close(alone.columns[column], values, rtol=1e-6, atol=1e-7)
    assert len(decoded) == len(set(decoded)) == 8
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_folder_against_itself_is_perfect(folders: tuple[Path, Path]) -> None:
    found = evaluate(folders[1], folders[1]).figures
    assert_close([found["psnr"].value, found["psnr"].low, found["psnr"].high], [58.92] * 3, rtol=0, atol=0.01)
    assert found["dab_error"].value == 0
    for name in ("ssim_grey", "ssim_rgb", "dab_r", "positive_dice", "positive_iou"):
        assert_close(found[name].value, 1.0, rtol=0, atol=1e-6)


def test_darker_and_brighter_by_the_same_amount_score_the_same(tmp_path: Path) -> None:
    """uint8 arithmetic would wrap here: 100 - 130 is 226."""
    for name, level in (("dark", 70), ("real", 100), ("bright", 130)):
        save_image(tmp_path / name / "a.png", np.full((16, 16, 3), level, np.uint8))
    dark, bright = (evaluate(tmp_path / name, tmp_path / "real").figures["psnr"].value for name in ("dark", "bright"))
    assert_close(dark, bright, rtol=1e-6, atol=0)
    assert_close(dark, 20 * math.log10(255 / 30), rtol=0, atol=1e-4)


def test_json_carries_tiles_intervals_and_protocols(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = evaluate(*folders, out=tmp_path / "new" / "out")
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["evaluation.json"]
    content = json.loads((tmp_path / "new" / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert [tile["name"] for tile in content["tiles"]] == list(found.names)
    assert content["tiles"][2]["ssim_rgb"] == found.columns["ssim_rgb"][2].item()
    for name, figure in content["figures"].items():
        assert figure["value"] == found.figures[name].value
        assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]
        assert figure["fingerprint"] == found.figures[name].fingerprint
        assert figure["protocol"]["tiles"] == 4
        assert figure["protocol"]["format"] == "tif against png"
        assert figure["protocol"]["size"] == "20×24 px to 24×20 px".replace(" px to", " to")


def test_what_is_not_finite_is_null_in_json_and_a_dash_in_the_table(tmp_path: Path) -> None:
    save_image(tmp_path / "real" / "a.png", np.full((16, 16, 3), 255, np.uint8))
    found = evaluate(tmp_path / "real", tmp_path / "real", out=tmp_path)
    content = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert content["figures"]["dab_r"]["value"] is None
    assert content["figures"]["positive_dice"]["interval"] == [None, None]
    rows = {row[0]: row[1] for row in tabulate({"virtual": found}).rows}
    assert rows["Positive area, Dice ↑"] == "–"
    assert rows["SSIM, RGB ↑"] == "1.000", "one tile has no interval"


def test_figures_made_differently_are_refused_in_one_table(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for path in folders[0].iterdir():
        Image.open(path).save(tmp_path / f"{path.stem}.png")
    found, again = evaluate(*folders), evaluate(tmp_path, folders[1])
    with pytest.raises(InputError, match=r"SSIM, grey of .* differ in format; evaluate both"):
        tabulate({"one": found, "other": again})
    assert found.figures["psnr"].fingerprint == evaluate(*folders).figures["psnr"].fingerprint


def test_figures_held_against_other_images_are_refused_in_one_table(folders: tuple[Path, Path]) -> None:
    virtual, real = folders
    he, other = real.with_name("he"), real.with_name("other")
    for index, path in enumerate(sorted(real.iterdir())):
        rgb = image.load_image(path)
        save_image(other / path.name, 255 - rgb if index == 2 else rgb)
        save_image(he / path.name, rgb)
    found = evaluate(virtual, real)
    with pytest.raises(InputError, match=r"different real images \(.*other and .*real\); evaluate both against the"):
        tabulate({"one": found, "two": evaluate(virtual, other)})
    tabulate({"one": found, "copied": evaluate(virtual, he)})
    first, second = evaluate(virtual, real, he=he), evaluate(virtual, real, he=other)
    with pytest.raises(InputError, match="different H&E images"):
        tabulate({"one": first, "two": second})
    assert first.figures["psnr"].fingerprint == second.figures["psnr"].fingerprint, "it does not see the H&E"
    for before, after in (("tile0.png", "swap"), ("tile1.png", "tile0.png"), ("swap", "tile1.png")):
        (real / before).rename(real / after)
    assert evaluate(virtual, real).figures["psnr"].fingerprint != found.figures["psnr"].fingerprint


def test_the_table_shows_n_protocol_and_the_paired_difference(folders: tuple[Path, Path]) -> None:
    found = evaluate(*folders)
    psnr = found.figures["psnr"]
    shifted = dict(found.figures) | {"psnr": replace(psnr, value=psnr.value + 0.25, draws=psnr.draws + 0.25)}
    better = replace(found, figures=shifted)
    gain = difference("psnr", found, better)
    assert_close([gain.low, gain.high], [0.25, 0.25])  # every draw takes the same tiles of both
    table = tabulate({"one": found, "two": better})
    assert table.header == ("Metric", "one", "two", "Difference", "N", "Protocol", "Fingerprint")
    text = str(table)
    assert "4" in table.rows[0]
    assert "gaussian 11 px, sigma 1.5" in text
    assert found.figures["psnr"].fingerprint in text
    assert "95% bootstrap over tiles, 1000 draws, seed 0" in text


def test_who_erases_the_stain_of_a_tile_is_not_called_better(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Of four tiles, the eraser leaves the two that it does well; its mean error over these is smaller."""
    virtual, real = folders
    for index, path in enumerate(sorted(virtual.iterdir())):
        rgb, truth = image.load_image(path), image.load_image(real / f"tile{index}.png")
        save_image(tmp_path / "weak" / path.name, (255 * (truth / 255) ** (1 - 0.1 * index)).astype(np.uint8))
        save_image(tmp_path / "eraser" / path.name, truth if index < 2 else np.full_like(rgb, 255))
    weak, eraser = (evaluate(tmp_path / name, real, out=tmp_path / name / "out") for name in ("weak", "eraser"))
    figure, erased = (found.figures["dab_positive_error"] for found in (weak, eraser))
    assert erased.value < figure.value
    assert (figure.tiles, erased.tiles, erased.missing) == (4, 2, (2, 3))
    assert math.isnan(difference("dab_positive_error", weak, eraser).value)
    assert verdict("dab_positive_error", weak, eraser) == "unclear"
    assert difference("dab_error", weak, eraser).value > 0, "every tile counts here"
    rows = {row[0]: row[1:5] for row in tabulate({"weak": weak, "eraser": eraser}).rows}
    assert rows["DAB density of the positive area, error ↓, OD"][2:] == ("–", "4, 2 of 4")
    assert rows["DAB density error ↓, OD"][3] == "4"
    content = json.loads((tmp_path / "eraser" / "out" / "evaluation.json").read_text(encoding="utf-8"))["figures"]
    assert (content["dab_positive_error"]["tiles"], content["dab_error"]["tiles"]) == (2, 4)


def test_missing_partners_are_named(folders: tuple[Path, Path]) -> None:
    (folders[1] / "tile1.png").unlink()
    with pytest.raises(InputError, match=r"no partner .*virtual/tile1.tif"):
        evaluate(*folders)
    (folders[0] / "tile1.tif").unlink()
    (folders[0] / "tile0.tif").unlink()
    with pytest.raises(InputError, match=r"no partner .*real/tile0.png"):
        evaluate(*folders)


def test_partners_of_two_sizes_are_named(folders: tuple[Path, Path]) -> None:
    save_image(folders[1] / "tile1.png", picture(0, 24, 24))
    with pytest.raises(InputError, match=r"tile1.tif has 20×24 px but .*tile1.png has 24×24 px"):
        evaluate(*folders)


def test_folders_that_do_not_serve_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nowhere does not exist"):
        evaluate(tmp_path / "nowhere", folders[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no images"):
        evaluate(folders[0], tmp_path / "empty")
    with pytest.raises(InputError, match=r"tile0.png cannot be read as a folder"):
        evaluate(folders[0], folders[1] / "tile0.png")
    save_image(folders[1] / "tile0.bmp", picture(0))
    with pytest.raises(InputError, match=r"tile0.bmp and .*tile0.png share a name"):
        evaluate(*folders)


def test_images_that_cannot_be_measured_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[1] / "tile2.png").write_bytes((folders[1] / "tile2.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"tile2.png is damaged"):
        evaluate(*folders)
    save_image(tmp_path / "small" / "dot.png", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(InputError, match=r"dot.png: SSIM has a window of 11 px; an image of 1×1 px"):
        evaluate(tmp_path / "small", tmp_path / "small")


def test_nothing_is_left_behind_where_the_result_cannot_be_written(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot create the folder"):
        evaluate(*folders, out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_intervals_narrow_with_more_tiles_and_repeat() -> None:
    values = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = interval(bootstrap(torch.mean, [values], samples(400)))
    wide_low, wide_high = interval(bootstrap(torch.mean, [values[:25]], samples(25)))
    assert wide_high - wide_low > 2 * (high - low)
    error = values.std().item() / math.sqrt(400)
    assert_close((high - low) / 2, 1.96 * error, rtol=0.1, atol=0)  # the normal interval of a mean
    assert interval(bootstrap(torch.mean, [values], samples(400))) == (low, high)
    assert interval(bootstrap(torch.mean, [values], samples(400, seed=1))) != (low, high)


def test_samples_without_a_figure_are_left_out_only_where_they_are_few() -> None:
    draws = torch.arange(1000, dtype=torch.float64)
    draws[-50:] = math.nan
    assert interval(draws) == pytest.approx((23.725, 925.275))
    draws[-51] = math.nan
    assert all(math.isnan(end) for end in interval(draws))


def test_one_tile_that_equals_its_partner_leaves_psnr_a_figure_with_an_interval(folders: tuple[Path, Path]) -> None:
    save_image(folders[0] / "tile0.tif", image.load_image(folders[1] / "tile0.png"))
    found = evaluate(*folders).figures["psnr"]
    assert math.isfinite(found.value)
    assert found.low <= found.value <= found.high


def test_tiles_of_one_case_are_drawn_together() -> None:
    """Ten copies of each of 40 values say no more than 40 values."""
    cases = [str(index // 10) for index in range(400)]
    for sample in samples(400, draws=5, cases=cases):
        assert len(sample) == 400
        assert all(count % 10 == 0 for count in Counter(cases[index] for index in sample.tolist()).values())
    once = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = once.repeat_interleave(10)
    low, high = interval(bootstrap(torch.mean, [values], samples(400, cases=cases)))
    assert_close((high - low) / 2, 1.96 * once.std().item() / math.sqrt(40), rtol=0.1, atol=0)


def test_a_single_case_or_tile_proves_no_difference(folders: tuple[Path, Path], tmp_path: Path) -> None:
    virtual, real = folders
    for whole, one in ((virtual, tmp_path / "one"), (real, tmp_path / "its-real")):
        one.mkdir()
        shutil.copy(sorted(whole.iterdir())[0], one)
    for first, second, against, cases in (
        (virtual, real, real, lambda _: "p1"),
        (tmp_path / "one", tmp_path / "its-real", tmp_path / "its-real", None),
    ):
        ours, best = (evaluate(folder, against, cases=cases) for folder in (first, second))
        gain = difference("psnr", ours, best)
        assert gain.value > 0
        assert np.isnan([gain.low, gain.high]).all()
        assert verdict("psnr", ours, best) == "unclear"


def test_cases_are_named_in_the_protocol(folders: tuple[Path, Path]) -> None:
    found = evaluate(*folders, cases=lambda name: "a" if name in ("tile0", "tile1") else "b")
    assert found.figures["psnr"].protocol["interval"] == "95% bootstrap over 2 cases, 1000 draws, seed 0"
    single = evaluate(*folders, cases=lambda _: "a")
    assert math.isnan(single.figures["psnr"].low), "one case has no interval"


def test_other_stain_vectors_give_the_figures_that_the_reference_stains_would(tmp_path: Path) -> None:
    """The same amounts of stain, drawn in the reference's colours and in another scanner's."""
    other = STAIN_VECTORS.clone()
    other[[0, 2]] = torch.tensor([[0.60, 0.64, 0.48], [0.21, 0.50, 0.84]], dtype=torch.float64)
    random = np.random.default_rng(0)
    for index in range(4):
        amounts = torch.from_numpy(np.kron(random.random((2, 2, 16, 16)) * [[[[0.7]], [[0.6]]]], np.ones((4, 4))))
        amounts[:, 1] *= amounts[:, 1] > 0.3
        for name, vectors in (("reference", STAIN_VECTORS), ("other", other)):
            rgb = to_uint8(from_unit(beer_lambert(amounts, vectors[[0, 2]])))
            for side, image_ in zip(("virtual", "real"), rgb, strict=True):
                save_image(tmp_path / name / side / f"{index}.png", image_)
    reference = evaluate(tmp_path / "reference" / "virtual", tmp_path / "reference" / "real")
    folders = tmp_path / "other" / "virtual", tmp_path / "other" / "real"
    plain = evaluate(*folders)
    estimated = evaluate(*folders, stain_vectors=stain_vectors_of(folders[1]))
    for column in ("dab_virtual", "dab_real"):
        gap = [(found.columns[column] - reference.columns[column]).abs().max() for found in (plain, estimated)]
        assert gap[1] < 0.01 < gap[0]
    for name in ("dab_error", "positive_dice"):
        assert estimated.figures[name].fingerprint != plain.figures[name].fingerprint
    assert estimated.figures["ssim_rgb"].fingerprint == plain.figures["ssim_rgb"].fingerprint
    assert estimated.figures["ssim_rgb"].value == plain.figures["ssim_rgb"].value


def test_stain_vectors_need_two_stains(tmp_path: Path) -> None:
    save_image(tmp_path / "white.png", np.full((32, 32, 3), 255, np.uint8))
    with pytest.raises(InputError, match=r"stain vectors cannot be estimated: the images do not show two stains"):
        stain_vectors_of(tmp_path)
