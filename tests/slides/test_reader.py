"""A slide is read alike in any boxes and at any scale, and says where its micrometres per pixel come from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from restain.errors import InputError, MissingError
from restain.image import RGB, save_image
from restain.slides.reader import Slide, open_slide
from restain.slides.sources import ImageSource, OpenSlideSource, Source, ome_mpp
from restain.slides.tiff_source import TiffSource
from restain.slides.tiling import Box

MakeSlide = Callable[..., Path]
SIZE = (600, 430)


def test_all_formats_give_the_same_pixels(make_slide: MakeSlide, drawing: RGB, tmp_path: Path) -> None:
    path, image = make_slide(), tmp_path / "he.png"
    save_image(image, drawing)
    planes, strips = tmp_path / "planes.tif", tmp_path / "strips.tif"
    tifffile.imwrite(planes, drawing.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", tile=(64, 64))
    tifffile.imwrite(strips, drawing, photometric="rgb", rowsperstrip=50)
    box = Box(130, 77, 301, 200)
    for source in (OpenSlideSource(path), TiffSource(path), TiffSource(planes), TiffSource(strips), ImageSource(image)):
        assert source.levels[0] == SIZE
        assert np.array_equal(source.read(0, box), drawing[box.slices])


@pytest.mark.parametrize("mpp", [8.0, 5.0, 12.0, 16.0, 32.0])
@pytest.mark.parametrize("source", [OpenSlideSource, TiffSource])
def test_boxes_fit_together(make_slide: MakeSlide, mpp: float, source: Callable[[Path], Source]) -> None:
    path = make_slide()
    with Slide(path, source(path)) as slide:
        whole = slide.whole(mpp).astype(int)
        assert whole.shape == (*slide.size_at(mpp)[::-1], 3)
        scale = slide.scale(mpp)
        most = 1.0
        if source is OpenSlideSource and mpp == 32.0:
            # The level used is 3.99 times smaller. OpenSlide takes whole px of the first level: a box is off by up to
            # half of one, in each direction; where it is whole times smaller, nothing is off.
            steps = max(np.abs(np.diff(whole, axis=0)).max(), np.abs(np.diff(whole, axis=1)).max())
            most += 2 * 0.5 / 3.99 * steps
        for x, y, width, height in ((0, 0, 40, 30), (17, 23, 40, 30), (whole.shape[1] - 50, 40, 50, 40)):
            part = slide.read((x * scale, y * scale), (width, height), mpp)
            difference = np.abs(part - whole[y : y + height, x : x + width])
            assert difference.max() <= most
            assert difference.mean() < 0.7


def test_reduced_it_is_the_mean(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    save_image(tmp_path / "noise.png", rgb)
    with open_slide(tmp_path / "noise.png", mpp=0.5) as slide:
        assert slide.read((0, 0), (8, 8), 4.0).mean() == pytest.approx(rgb.mean(), abs=2)


def test_beyond_the_border_it_is_reflected(make_slide: MakeSlide, drawing: RGB) -> None:
    with open_slide(make_slide()) as slide:
        found = slide.read((SIZE[0] - 20, -5), (40, 30), slide.mpp)
    assert np.array_equal(found, np.pad(drawing, ((5, 0), (0, 20), (0, 0)), mode="reflect")[:30, -40:])


def test_within_two_percent_nothing_is_resampled(make_slide: MakeSlide, drawing: RGB) -> None:
    with open_slide(make_slide(mpp=0.499)) as slide:
        assert slide.scale(0.5) == 1
        assert slide.scale(0.25) == pytest.approx(0.501, abs=1e-3)
        assert np.array_equal(slide.whole(0.5), drawing)


class Fake:
    """A source that only says what it is."""

    def __init__(self, **candidates: float) -> None:
        self.format, self.levels, self.icc_profile = "fake", ((100, 80),), None
        self.mpp_candidates = {name.replace("_", " "): (value, value) for name, value in candidates.items()}
        self.notes = ()

    def read(self, level: int, box: Box) -> RGB:
        raise OSError(f"level {level} ends early")

    def close(self) -> None:
        pass


def test_the_most_trustworthy_plausible_mpp_is_taken() -> None:
    slide = Slide(Path("s.svs"), Fake(the_scanner=1000.0, OME=0.25, the_objective=0.5))
    assert (slide.mpp, slide.mpp_origin) == (0.25, "from OME")
    assert Slide(Path("s.svs"), Fake(OME=0.25), mpp=0.5).mpp == 0.5
    with pytest.raises(InputError, match=r"implausible .* \(352.8 from the TIFF resolution\)"):
        Slide(Path("s.svs"), Fake(the_TIFF_resolution=352.8))
    with pytest.raises(InputError, match=r"25 .*out of range"):
        Slide(Path("s.svs"), Fake(), mpp=25)


def test_a_damaged_place_is_named() -> None:
    with pytest.raises(
        InputError, match=r"s\.svs is damaged .* level 0 .* \(8, 4\): level 0 ends early; copy it again"
    ):
        Slide(Path("s.svs"), Fake(OME=0.5)).read((8, 4), (16, 16), 0.5)


def test_mpp_of_ome_and_of_tiff(drawing: RGB, tmp_path: Path) -> None:
    pixels = '<Pixels SizeX="{}" SizeY="80" PhysicalSizeX="{}" PhysicalSizeXUnit="nm"/>'
    macro, slide = (f"<Image>{pixels.format(width, size)}</Image>" for width, size in ((10, 8000), (100, 250)))
    assert ome_mpp(f"<OME>{macro}{slide}</OME>", (100, 80)) == (0.25, 0.25)
    assert ome_mpp(f"<OME>{macro}</OME>", (100, 80)) is None
    assert ome_mpp("<OME><broken", (100, 80)) is None
    Image.fromarray(drawing).save(tmp_path / "a.tif", dpi=(50_800, 50_800))
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert slide.mpp_origin == "from the TIFF resolution"
    Image.fromarray(drawing).save(tmp_path / "b.jpg", dpi=(72, 72))
    with pytest.raises(InputError, match=r"b\.jpg has no micrometres per pixel"):
        open_slide(tmp_path / "b.jpg")


def test_what_is_no_slide_is_refused(make_slide: MakeSlide, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="does not exist"):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(InputError, match="is a folder"):
        open_slide(tmp_path)
    whole = make_slide().read_bytes()
    for name, contents in (("cut.svs", whole[: len(whole) // 2]), ("cut.ome.tif", whole[:2000]), ("x.svs", b"text")):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(InputError, match=r"cannot be read as a slide .* it may be cut short, copy it again"):
            open_slide(tmp_path / name)
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((64, 64, 3), np.uint16), photometric="rgb", compression="zlib")
    with pytest.raises(InputError, match="3 channels of 16 bits; expected one RGB image of 8 bits"):
        TiffSource(tmp_path / "deep.tif")


def test_a_real_slide(shared: Path) -> None:
    path = shared / "data/slides/CMU-1-Small-Region.svs"
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert (slide.size, slide.levels) == ((2220, 2967), ((2220, 2967),))
        assert (slide.mpp, slide.mpp_origin) == (0.499, "from the scanner's properties")
        found = slide.read((1000, 1500), (200, 100), slide.mpp)
        assert np.array_equal(found, np.asarray(reference.read_region((1000, 1500), 0, (200, 100)).convert("RGB")))
        assert slide.thumbnail(256).shape == (256, 191, 3)
