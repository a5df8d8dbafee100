"""`restain import`, `info` and `stain` as a user meets them."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from restain.checkpoint import load_generator, published_names, save_checkpoint
from restain.cli import main
from restain.image import load_image, save_image
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.unet import UNet, UNetConfig
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.staining.images import stain

Run = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line and give its status."""

    def call(*words: object) -> int:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["restain", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    generator = Generator(GeneratorConfig(width=2, blocks=1))
    save_checkpoint(tmp_path / "m.safetensors", generator, method="cut", stain="HER2", mpp=0.466, extra={"seed": 1})
    return tmp_path / "m.safetensors"


@pytest.fixture
def he(tmp_path: Path) -> Path:
    for index in range(2):
        rgb = np.random.default_rng(index).integers(0, 256, (16, 20, 3), dtype=np.uint8)
        save_image(tmp_path / "he" / f"{index}.png", rgb)
    return tmp_path / "he"


def test_a_published_file_becomes_a_model_that_stains(run: Run, he: Path, tmp_path: Path, capsys: Captured) -> None:
    config = GeneratorConfig(width=2, blocks=6, spectral_norm=False)
    generator = Generator(config)
    state = generator.state_dict()
    published = {theirs: state[ours] for ours, theirs in published_names(generator).items()}
    torch.save(published, tmp_path / "latest_net_G.pth")
    out = tmp_path / "m.safetensors"
    assert run("import", tmp_path / "latest_net_G.pth", "--out", out, "--mpp", 0.466, "--stain", "HER2") == 0
    assert "latest_net_G.pth is a generator (width 2, blocks 6, " in capsys.readouterr().out

    assert run("stain", he, "--model", out, "--out", tmp_path / "virtual", "--device", "cpu") == 0
    assert capsys.readouterr().out == f"2 of 2 images are stained, in {tmp_path / 'virtual'}\n"
    expected = stain(load_generator(out), load_image(he / "1.png"))
    assert np.abs(load_image(tmp_path / "virtual" / "1.png").astype(int) - expected).max() <= 1


def test_info_shows_what_is_inside(run: Run, model: Path, capsys: Captured) -> None:
    assert run("info", model) == 0
    printed = capsys.readouterr().out
    for words in ("generator", "width 2, blocks 1", "cut", "HER2", "0.466 µm per px", "torch", "seed"):
        assert words in printed


def test_a_bad_image_is_told_at_the_end(run: Run, model: Path, he: Path, tmp_path: Path, capsys: Captured) -> None:
    (he / "bad.png").write_text("no image")
    assert run("stain", he, "--model", model, "--out", tmp_path / "virtual") == 1
    printed = capsys.readouterr()
    assert f"restain: not stained: {he / 'bad.png'} is not a PNG" in printed.err
    assert "2 of 3 images are stained" in printed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stain", "he", "--model", "he", "--out", "virtual"], "he is a folder; a checkpoint is one file"),
        (["stain", "he", "--model", "no.safetensors", "--out", "virtual"], "no.safetensors does not exist"),
        (["stain", "none", "--model", "m.safetensors", "--out", "virtual"], "none does not exist"),
        (["stain", "he", "--model", "m.safetensors", "--out", "he"], "he is not empty"),
        (["stain", "he", "--model", "m.safetensors", "--out", "virtual", "--tile-px", "30"], "expected multiples of 4"),
        (
            ["stain", "he", "--model", "m.safetensors", "--out", "virtual", "--device", "abacus"],
            "is not available to torch",
        ),
        *(
            (
                f"stain-slides he/0.png --model m.safetensors --out v.ome.tif {words}".split(),
                f"{words.split()[0]} is for",
            )
            for words in ("--shard 0/2", "--processes 2", "--ray local")
        ),
        (["stain-slides", "he", "--model", "m.safetensors", "--out", "virtual"], "he holds no slides"),
        (["stain-slides", "he/0.png", "he/1.png", "--model", "m.safetensors", "--out", "v.ome.tif"], "is one file"),
        *(
            (
                ["stain-slides", "a.svs", "--model", "m.safetensors", "--out", "virtual", f"--model-mpp={mpp}"],
                "is out of range",
            )
            for mpp in (0, -1)
        ),
        (
            ["stain", "he", "--model", "m.safetensors", "--out", "virtual", "--trust", "--norm", "dense"],
            "dense normalisation",
        ),
        (
            ["stain", "he", "--model", "m.safetensors", "--out", "virtual", "--published-test"],
            "no batch norm",
        ),
        (["info", "he/0.png"], "he/0.png is not a restain checkpoint"),
        (["import", "he/0.png", "--out", "n.safetensors"], "he/0.png is not a PyTorch weight file"),
        (["import", "m.safetensors", "--out", "n.safetensors"], "m.safetensors holds a network of restain already"),
        (["import", "net.pth", "--out", "net.pth"], "expected a name that ends in .safetensors"),
    ],
)
def test_what_cannot_work_is_one_line(
    run: Run,
    model: Path,
    he: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    words: list[str],
    message: str,
) -> None:
    assert model.parent == he.parent
    monkeypatch.chdir(model.parent)
    assert run(*words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("restain: ")
    assert message in line
    assert not Path("virtual").exists() or not any(Path("virtual").iterdir())
    assert not Path("n.safetensors").exists()


def test_the_published_test_of_batch_norm_is_another_image(run: Run, he: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = UNet(UNetConfig(width=2, depth=3))
    for weight in network.parameters():
        torch.nn.init.normal_(weight, 0.3 if weight.ndim == 1 else 0.0, 0.5)
    model = tmp_path / "unet.safetensors"
    save_checkpoint(model, network, method="pix2pix")
    assert run("stain", he, "--model", model, "--out", tmp_path / "tested", "--published-test") == 0
    assert run("stain", he, "--model", model, "--out", tmp_path / "stained") == 0
    expected = stain(load_generator(model, as_published_test=True), load_image(he / "0.png"))
    assert np.array_equal(load_image(tmp_path / "tested" / "0.png"), expected)
    assert not np.array_equal(load_image(tmp_path / "stained" / "0.png"), expected)


@pytest.mark.parametrize("tile_px", [0, -16])
def test_a_tile_of_no_pixels_is_refused(
    run: Run, model: Path, he: Path, tmp_path: Path, capsys: Captured, tile_px: int
) -> None:
    assert run("stain", he, "--model", model, "--out", tmp_path / "virtual", f"--tile-px={tile_px}") == 2
    assert "Invalid value for '--tile-px'" in capsys.readouterr().err
    assert not (tmp_path / "virtual").exists()


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    rgb = np.random.default_rng(0).integers(100, 200, (64, 64, 3), dtype=np.uint8)
    write_slide(
        tmp_path / "slides" / "a.ome.tif",
        (64, 64),
        lambda x, y, w, h: rgb[y : y + h, x : x + w],
        Description("a", 0.466),
    )
    return tmp_path / "slides" / "a.ome.tif"


def test_the_first_word_for_slides_may_be_that_for_images(
    run: Run, model: Path, slide: Path, he: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "list.csv").write_text(f"slide,name\n{slide},b\n")
    means_slides = {
        slide: "one.ome.tif", slide.parent: "folder", tmp_path / "list.csv": "list", he / "0.png": "0.ome.tif"
    }  # fmt: skip
    for number, (given, out) in enumerate(means_slides.items()):
        words = ["--model", model, "--out", tmp_path / str(number) / out, "--no-tissue-mask", "--mpp", 0.466]
        assert run("stain", given, *words) == 0
        assert "restain stain-slides" in capsys.readouterr().err
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("[0-3]/**/*.ome.tif")) == [
        "0/one.ome.tif", "1/folder/a.ome.tif", "2/list/b.ome.tif", "3/0.ome.tif"
    ]  # fmt: skip


def test_a_folder_with_images_is_one_of_images_and_slides_in_it_are_told(
    run: Run, model: Path, slide: Path, he: Path, tmp_path: Path, capsys: Captured
) -> None:
    slide.rename(he / "a.ome.tif")
    (he / "._old.svs").touch()
    assert run("stain", he, "--model", model, "--out", tmp_path / "virtual") == 0
    printed = capsys.readouterr()
    assert "2 of 2 images are stained" in printed.out
    assert "1 slides" in printed.err
    assert run("stain-slides", he, "--model", model, "--out", tmp_path / "slides-out", "--no-tissue-mask") == 0
    printed = capsys.readouterr()
    assert "1 of 1 slides are stained" in printed.out
    assert "2 plain images" in printed.err


def test_an_option_of_slides_alone_is_unknown_for_images(
    run: Run, model: Path, he: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run("stain", he, "--model", model, "--out", tmp_path / "virtual", "--shard", "0/2") == 2
    assert "--shard" in capsys.readouterr().err
