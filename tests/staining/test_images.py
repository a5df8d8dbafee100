"""Staining gives what the generator gives, whatever the size, the tiling and the batch."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from restain.errors import InputError, OutputError, RestainError, ShapeError
from restain.image import RGB, load_image, save_image, to_tensor, to_uint8
from restain.networks.generator import Generator, GeneratorConfig
from restain.staining import images
from restain.staining.images import stain, stain_files

INSTANCE = Generator(GeneratorConfig(width=2, blocks=1)).eval()


def local_generator(*, antialias: bool) -> Generator:
    """Batch norm in evaluation makes the generator a local function: tiles can be compared with the whole."""
    config = GeneratorConfig(width=4, blocks=1, norm="batch", spectral_norm=False, antialias=antialias)
    generator = Generator(config)
    with torch.no_grad():
        for weight in generator.parameters():
            if weight.ndim == 4:
                torch.nn.init.orthogonal_(weight, 1.5)
        generator(to_tensor(photo(64, 64)))
    return generator.eval()


def photo(height: int, width: int, seed: int = 0) -> RGB:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


LOCAL = [local_generator(antialias=True), local_generator(antialias=False)]


def test_one_tile_is_the_generator_alone() -> None:
    rgb = photo(32, 48)
    with torch.no_grad():
        expected = to_uint8(INSTANCE(to_tensor(rgb)))[0]
    assert np.array_equal(stain(INSTANCE, rgb), expected)
    assert np.array_equal(stain(INSTANCE, rgb[None]), expected[None])


@given(height=st.integers(8, 90), width=st.integers(8, 90), which=st.integers(0, 1))
@settings(max_examples=40)
def test_tiles_equal_the_whole_where_the_generator_is_local(height: int, width: int, which: int) -> None:
    rgb = photo(height, width)
    whole, tiled = (stain(LOCAL[which], rgb, tile_px=tile_px) for tile_px in (128, 16))
    assert whole.shape == tiled.shape == rgb.shape
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1, "at most the rounding of a grey level"
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("generator", LOCAL)
def test_a_smaller_halo_is_not_enough(generator: Generator) -> None:
    rgb = photo(96, 96)
    whole, tiled = stain(generator, rgb), stain(generator, rgb, tile_px=16, halo_px=4)
    assert np.abs(whole.astype(int) - tiled).max() > 1


@pytest.mark.parametrize(("height", "width"), [(29, 34), (8, 9), (31, 8)])
def test_other_sides_are_reflected_and_cropped(height: int, width: int) -> None:
    rgb = photo(height, width)
    padded = np.pad(rgb, ((0, -height % 4), (0, -width % 4), (0, 0)), mode="reflect")
    assert np.array_equal(stain(INSTANCE, rgb), stain(INSTANCE, padded)[:height, :width])


def test_a_batch_equals_its_images_one_by_one() -> None:
    batch = np.stack([photo(30, 40, seed) for seed in range(5)])
    one_by_one = np.stack([stain(INSTANCE, rgb) for rgb in batch])
    assert np.abs(stain(INSTANCE, batch).astype(int) - one_by_one).max() <= 1
    assert np.array_equal(stain(INSTANCE, batch[:0]), batch[:0])


def test_the_network_never_sees_more_than_one_large_window_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def forward(_: Generator, x: Tensor) -> Tensor:
        sizes.append(x.shape[0] * x.shape[2] * x.shape[3])
        return x

    monkeypatch.setattr(Generator, "forward", forward)
    for batch in (np.stack([photo(16, 24, seed) for seed in range(40)]), photo(16, 3000)[None], photo(200, 200)[None]):
        sizes.clear()
        assert np.array_equal(stain(INSTANCE, batch, tile_px=32, halo_px=8), batch)
        assert max(sizes) <= 48**2
    assert len(sizes) == 7 * 7


def test_a_wide_image_is_stained_in_tiles() -> None:
    rgb = photo(8, 30_000)
    assert stain(INSTANCE, rgb, tile_px=4096).shape == rgb.shape


def test_the_generator_is_left_as_it_was() -> None:
    generator = Generator(GeneratorConfig(width=2, blocks=1)).train()
    before = {name: weight.clone() for name, weight in generator.state_dict().items()}
    first = stain(generator, photo(16, 16))
    assert generator.training
    assert all(torch.equal(weight, before[name]) for name, weight in generator.state_dict().items())
    assert np.array_equal(first, stain(generator.eval(), photo(16, 16)))
    assert not generator.training


@pytest.mark.parametrize(
    ("rgb", "words"),
    [
        (np.zeros((8, 8), np.uint8), "8 x 8 uint8"),
        (np.zeros((8, 8, 4), np.uint8), "8 x 8 x 4 uint8"),
        (np.zeros((8, 8, 3), np.float32), "8 x 8 x 3 float32"),
    ],
)
def test_other_arrays_are_refused(rgb: RGB, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        stain(INSTANCE, rgb)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 100), (100, 7), (0, 8)])
def test_what_is_too_small_is_refused(height: int, width: int) -> None:
    with pytest.raises(InputError, match=f"{width} x {height} px is too small to stain; each side needs at least 8 px"):
        stain(INSTANCE, photo(height, width))


def test_the_smallest_side_is_the_smallest_that_the_network_takes() -> None:
    assert stain(INSTANCE, photo(8, 8)).shape == (8, 8, 3)
    with pytest.raises(RuntimeError), torch.no_grad():
        INSTANCE(to_tensor(photo(4, 8)))


def test_too_little_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: object) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Generator, "forward", forward)
    with pytest.raises(RestainError, match="a tile of 12 x 8 px does not fit in the memory of cpu; choose a smaller"):
        stain(INSTANCE, photo(8, 12))


@pytest.fixture
def he(tmp_path: Path) -> Path:
    """Images of two sizes in two folders."""
    for index, name in enumerate(("a.png", "b.png", "sub/a.png", "sub/c.png")):
        save_image(tmp_path / "he" / name, photo(16 + 4 * (index % 2), 24, seed=index))
    return tmp_path / "he"


def test_files_are_stained_like_arrays(he: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    outcome = stain_files(INSTANCE, [he], tmp_path / "out", on_progress=lambda done, total: seen.append((done, total)))
    assert not outcome.failures
    for path in sorted(he.rglob("*.png")):
        target = tmp_path / "out" / path.relative_to(he)
        assert target in outcome.written
        assert np.abs(load_image(target).astype(int) - stain(INSTANCE, load_image(path))).max() <= 1
    pixels = 2 * (16 + 20) * 24
    assert seen[-1] == (pixels, pixels)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_bad_file_does_not_stop_the_others(he: Path, tmp_path: Path) -> None:
    whole = (he / "a.png").read_bytes()
    (he / "short.png").write_bytes(whole[: len(whole) // 2])
    (he / "text.png").write_text("no image")
    save_image(he / "dot.png", photo(1, 1))
    outcome = stain_files(INSTANCE, [he], tmp_path / "out")
    reasons = {path.name: str(error) for path, error in outcome.failures.items()}
    assert reasons.keys() == {"short.png", "text.png", "dot.png"}
    assert "dot.png: 1 x 1 px is too small" in reasons["dot.png"]
    assert all(name in reason for name, reason in reasons.items())
    assert sorted(outcome.written) == sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert len(outcome.written) == 4


def test_groups_hold_images_of_one_size_and_no_more_than_fits(monkeypatch: pytest.MonkeyPatch, he: Path) -> None:
    monkeypatch.setattr(images, "_FILES_PX", 16 * 24)
    loaded: list[str] = []
    monkeypatch.setattr(images, "load_image", lambda path: loaded.append(path.name) or load_image(path))
    assert len(stain_files(INSTANCE, [he], he.parent / "out").written) == 4
    assert sorted(loaded) == ["a.png", "a.png", "b.png", "c.png"]


def test_a_full_disk_stops_the_run_and_leaves_whole_files(
    he: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()
    write = Path.write_bytes

    def one_then_full(path: Path, data: bytes) -> int:
        if written.is_set():
            write(path, data[:10])
            raise OSError(28, "No space left on device")
        written.set()
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", one_then_full)
    with pytest.raises(OutputError, match="No space left on device"):
        stain_files(INSTANCE, [he], tmp_path / "out")
    (left,) = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert load_image(left).shape[2] == 3
