"""The models that come with the package: found by name, documented, small, and better than the H&E as it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from restain.checkpoint import load_generator, read_info
from restain.cli import app
from restain.data.phantom import PhantomSettings, draw_pair
from restain.errors import MissingError
from restain.image import to_tensor, to_uint8
from restain.metrics.expression import dice, positive_areas
from restain.metrics.similarity import psnr
from restain.models import find_model, packaged_models
from restain.stains import to_unit

KNOWN = packaged_models()


def test_the_expected_ones_are_here() -> None:
    assert set(KNOWN) == {"colon-panck", "phantom-her2"}


@pytest.mark.parametrize("name", KNOWN)
def test_each_says_where_it_comes_from(name: str) -> None:
    model, info = KNOWN[name], read_info(KNOWN[name].weights)
    assert model.weights.stat().st_size < 10_000_000
    assert info.stain
    assert info.mpp == 0.5
    for key in ("name", "licence", "attribution", "command", "revision", "seed", "steps", "data_sha256"):
        assert key in info.extra, key
    assert info.extra["name"] == name
    card = model.card.read_text(encoding="utf-8")
    assert card.startswith(f"# {name}")
    for word in ("held-out", "interval", "Limits", "research", info.extra["data_sha256"][:12], info.sha256[:12]):
        assert word in card, word
    with Image.open(model.picture) as picture:
        assert picture.width > picture.height > 0


@pytest.mark.parametrize("name", KNOWN)
def test_weights_are_stored_in_half_precision_and_used_in_full(name: str) -> None:
    generator = load_generator(name)
    assert {weight.dtype for weight in generator.parameters()} == {torch.float32}
    for weight in generator.parameters():
        if weight.ndim == 4:
            assert torch.equal(weight, weight.half().float())


def test_the_phantom_model_stains_what_it_has_never_seen() -> None:
    """Against the truth of the very section; the H&E as it is counts as brown in places and is the floor."""
    pairs = [draw_pair(seed, PhantomSettings(size_px=192)) for seed in (90_004, 90_005, 90_007)]
    he, real = (torch.cat([to_tensor(getattr(pair, side)) for pair in pairs]) for side in ("he", "ihc_aligned"))
    with torch.no_grad():
        virtual = to_unit(to_tensor(to_uint8(load_generator("phantom-her2")(he))))
    he, real = to_unit(he), to_unit(real)
    found, floor = (dice(*positive_areas(images, real).T) for images in (virtual, he))
    assert found > 0.5
    assert found > 2 * floor
    assert (psnr(virtual, real) > psnr(he, real) + 4).all()


def test_a_path_is_a_path_and_a_name_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(KNOWN))
    assert find_model(name) == KNOWN[name].weights
    assert find_model(Path(name)) == KNOWN[name].weights
    for path in ("runs/model.safetensors", "model.safetensors", "./colon"):
        assert find_model(path) == Path(path)
    with pytest.raises(MissingError, match=r"there is no model 'lung'.*colon-panck"):
        find_model("lung")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lung").write_bytes(b"weights without a suffix")
    assert find_model("lung") == Path("lung")


def test_the_command_line_takes_names(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 80, 3), 200, np.uint8)).save(tmp_path / "he.png")
    run = CliRunner().invoke(
        app, ["stain", str(tmp_path / "he.png"), "--model", next(iter(KNOWN)), "--out", str(tmp_path / "out")]
    )
    assert run.exit_code == 0, run.output
    with Image.open(tmp_path / "out" / "he.png") as stained:
        assert stained.size == (80, 64)
    listed = CliRunner().invoke(app, ["models"])
    shown = CliRunner().invoke(app, ["models", "show", "colon-panck"])
    assert listed.exit_code == shown.exit_code == 0
    assert all(name in listed.output for name in KNOWN)
    assert "colon-panck.jpg" in shown.output.replace("\n", "")
    assert CliRunner().invoke(app, ["models", "show", "lung"]).exit_code == 1
