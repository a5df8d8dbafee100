"""Figures on held-out pairs: those of `evaluate`, judged in register where that is possible; the best is kept."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from restain.checkpoint import load_generator, read_info
from restain.data.pairs import PairedTiles
from restain.errors import ConfigError
from restain.image import load_image, save_image, to_uint8
from restain.metrics.distribution import kernel_distance
from restain.metrics.evaluation import evaluate
from restain.training import Recipe, train
from restain.training.held_out import find_held_out

Small = Callable[..., Recipe]
Kill = Callable[[int], AbstractContextManager[None]]
LOOKING = {"evaluate_every_steps": 2, "best_by": "psnr"}


@pytest.fixture
def registered(tiles: Path, tmp_path: Path) -> Path:
    """The same tiles with held-out IHC in register."""
    root = tmp_path / "registered"
    shutil.copytree(tiles, root)
    shutil.copytree(root / "valA", root / "valB_aligned")
    return root


def figures(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "held_out.jsonl").read_text().splitlines()]


def test_the_figures_are_those_of_evaluate(small: Small, tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = small("pix2pix", training={"steps": 2, "evaluate_every_steps": 2})
    network = load_generator(train(recipe, tiles, out))
    pairs = PairedTiles(tiles, "val", 32, grades="none")
    with torch.no_grad():
        for index, name in enumerate(pairs.names):
            pair = pairs[index]
            save_image(tmp_path / "virtual" / f"{name}.png", to_uint8(network(pair.he))[0])
            save_image(tmp_path / "real" / f"{name}.png", to_uint8(pair.ihc)[0])
    found = evaluate(tmp_path / "virtual", tmp_path / "real").figures
    (line,) = figures(out)
    assert (line["step"], line["pairs"]) == (2, 2)
    for name in ("psnr", "dab_error", "positive_dice"):
        assert line[name] == pytest.approx(found[name].value, rel=1e-4)
    assert not (out / "best.safetensors").exists()


def test_ihc_in_register_is_judged_by_where_it_is_there_and_that_is_said(
    small: Small, registered: Path, tmp_path: Path
) -> None:
    recipe = small("pix2pix", training=LOOKING)
    held_out = find_held_out(recipe, registered, torch.device("cpu"), None)
    assert held_out
    assert "valB_aligned" in held_out.describe()
    assert {pair.ihc.parent.name for pair in held_out.pairs.files} == {"valB_aligned"}
    assert torch.equal(held_out.pairs[0].he, held_out.pairs[0].ihc), "the aligned IHC here is the H&E"
    (registered / "valB_aligned" / "tile1_1+.png").unlink()
    part = find_held_out(recipe, registered, torch.device("cpu"), None)
    assert part
    assert {pair.ihc.parent.name for pair in part.pairs.files} == {"valB"}, "all or none"


@pytest.mark.parametrize("step", [3, 5, 6, 8])
def test_a_resumed_run_keeps_the_same_best_and_the_same_figures(
    step: int, small: Small, registered: Path, tmp_path: Path, killed_in: Kill
) -> None:
    recipe = small("pix2pix", training=LOOKING | {"steps": 9, "save_every_steps": 4})
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(recipe, registered, whole)
    values = [line["psnr"] for line in figures(whole)]
    best = read_info(whole / "best.safetensors")
    assert best.extra["psnr"] == max(values)
    assert best.extra["steps"] == figures(whole)[values.index(max(values))]["step"]
    assert [line["step"] for line in figures(whole)] == [2, 4, 6, 8, 9]

    with killed_in(step):
        train(recipe, registered, resumed)
    train(recipe, registered, resumed)
    assert (resumed / "held_out.jsonl").read_text() == (whole / "held_out.jsonl").read_text()
    again = read_info(resumed / "best.safetensors")
    assert (again.sha256, again.extra) == (best.sha256, best.extra)


def test_figures_on_other_pairs_do_not_keep_an_earlier_checkpoint(
    small: Small, registered: Path, tmp_path: Path
) -> None:
    """A run is lengthened after the IHC in register, by which its figures are much better, was removed."""
    out = tmp_path / "run"
    train(small("pix2pix", training=LOOKING | {"steps": 2}), registered, out)
    log = out / "held_out.jsonl"
    log.write_text(json.dumps(figures(out)[0] | {"psnr": 99.0}) + "\n")
    shutil.rmtree(registered / "valB_aligned")
    train(small("pix2pix", training=LOOKING | {"steps": 4}), registered, out)
    best = read_info(out / "best.safetensors").extra
    assert (best["steps"], best["psnr"]) == (4, figures(out)[1]["psnr"])


def test_what_figures_are_measured_on_and_by_is_identified(registered: Path, small: Small) -> None:
    def key(by: str = "psnr", extractor: tuple[str, Path] | None = None) -> str:
        recipe = small("pix2pix", training=LOOKING | {"best_by": by})
        found = find_held_out(recipe, registered, torch.device("cpu"), extractor)
        assert found
        return found.key

    torch.save(Colours().state_dict(), weights := registered / "colours.pth")
    entry = f"{__name__}:Colours", weights
    before = key()
    assert before == key() == key(extractor=entry)
    assert key("kid", entry) != before
    image = next((registered / "valA").iterdir())
    save_image(image, 255 - load_image(image)[::-1] // 2)
    assert key() != before


def test_looking_changes_nothing_about_the_weights(small: Small, tiles: Path, tmp_path: Path) -> None:
    plain = train(small("cut"), tiles, tmp_path / "plain")
    watched = train(
        small("cut", training={"evaluate_every_steps": 1, "best_by": "dab_error"}), tiles, tmp_path / "seen"
    )
    assert read_info(watched).sha256 == read_info(plain).sha256
    lowest = min(line["dab_error"] for line in figures(tmp_path / "seen"))
    assert read_info(tmp_path / "seen" / "best.safetensors").extra["dab_error"] == lowest


class Colours(nn.Module):
    """An extractor that sees mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.mean((2, 3))


def test_kid_is_measured_where_an_extractor_is_there(
    small: Small, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(Colours().state_dict(), tmp_path / "colours.pth")
    monkeypatch.setitem(sys.modules, "seen_colours", ModuleType("seen_colours"))
    monkeypatch.setattr(sys.modules["seen_colours"], "Net", Colours, raising=False)
    recipe = small("pix2pix", training={"steps": 1, "evaluate_every_steps": 1, "best_by": "kid"})
    entry = "seen_colours:Net", tmp_path / "colours.pth"
    network = load_generator(train(recipe, tiles, tmp_path / "run", extractor=entry))
    pairs = PairedTiles(tiles, "val", 32, grades="none")
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.no_grad():
        for index in range(len(pairs)):
            virtual = torch.from_numpy(to_uint8(network(pairs[index].he))).double().div(255)
            sides[0].append(virtual.mean((1, 2)))
            sides[1].append((pairs[index].ihc.double().mean((2, 3)) + 1) / 2)
    expected = kernel_distance(torch.cat(sides[0]), torch.cat(sides[1]), 1, 2, torch.Generator())
    assert figures(tmp_path / "run")[0]["kid"] == pytest.approx(1000 * expected.item(), rel=1e-3)
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_what_cannot_be_evaluated_is_refused_before_anything_is_trained(
    small: Small, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    whole = tmp_path / "whole"
    for side in "AB":
        shutil.copytree(tiles / f"train{side}", whole / {"A": "he", "B": "ihc"}[side])
    with pytest.raises(ConfigError, match=r"evaluate_every_steps .* no held-out part"):
        train(small("pix2pix", training=LOOKING), whole, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"'kid'.* no extractor"):
        train(small("pix2pix", training=LOOKING | {"best_by": "kid"}), tiles, tmp_path / "run")
    with pytest.raises(ConfigError, match="best_by is 'psnr', but nothing is evaluated"):
        small("pix2pix", training={"best_by": "psnr"})
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="classify has no virtual IHC"):
        train(small("classify", training=LOOKING), tiles, tmp_path / "run")


def test_an_undefined_figure_is_null_and_never_the_best(small: Small, tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    for part in ("train", "val"):
        for index in range(4):
            for side in "AB":
                blank = 1 - 0.01 * torch.rand(1, 3, 40, 40, generator=draws)
                save_image(tmp_path / "blank" / f"{part}{side}" / f"{index}.png", to_uint8(blank)[0])
    recipe = small("reconstruct", training={"steps": 1})  # any; only its data settings count here
    held_out = find_held_out(
        recipe.model_copy(update={"training": recipe.training.model_copy(update={"evaluate_every_steps": 1})}),
        tmp_path / "blank",
        torch.device("cpu"),
        None,
    )
    assert held_out

    class Copies:
        training = False

        def product(self) -> nn.Module:
            return nn.Identity()

        def modules(self) -> list[nn.Module]:
            return []

        def eval(self) -> None:
            pass

    found = held_out.measure(Copies(), torch.device("cpu"))  # type: ignore[arg-type]  # all that is asked of a method
    assert found["positive_dice"] is None
    assert found["psnr"] is not None
    assert math.isfinite(found["psnr"])
