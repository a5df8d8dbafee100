"""Staining a slide: megapixels per second, the share of each stage, and the ratio to a plain loop in the same run.

The plain loop reads a window, runs the generator as it was trained, crops, and keeps the tile for one TIFF at the end.

python benchmarks/slide.py SLIDE --model M [--tile-px 1024] [--region X,Y,W,H] [--threads 2] [--batch N] [--bfloat16]
    [--engine openvino]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import torch

from restain.checkpoint import load_checkpoint
from restain.image import to_tensor, to_uint8
from restain.slides.reader import open_slide
from restain.slides.tissue import find_tissue
from restain.staining.model import load_model
from restain.staining.plan import make_plan
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide

Region = tuple[int, int, int, int]


def plain_loop(source: Path, model: Path, out: Path, region: Region | None, tile_px: int, device: str) -> float:
    """Read, run, write, one after the other, on the same tiles; megapixels."""
    network = load_checkpoint(model, device)[0].eval()
    with open_slide(source) as slide:
        tissue = find_tissue(slide)
        halo_px = network.halo_px
        plan = make_plan(slide, slide.mpp, tile_px=tile_px, halo_px=halo_px, region=region, tissue=tissue)
        canvas = np.full((plan.area.height, plan.area.width, 3), 242, np.uint8)
        pixels = 0
        for work in plan.work():
            core, window = work.tile.core, work.tile.window
            with torch.inference_mode():
                virtual = to_uint8(network(to_tensor(plan.read(window)).to(device)))[0]
            y, x = core.y - plan.area.y, core.x - plan.area.x
            canvas[y : y + core.height, x : x + core.width] = virtual[core.within(window).slices]
            pixels += core.width * core.height
        levels = [canvas]
        while max(levels[-1].shape) > tile_px:
            levels.append(levels[-1][::2, ::2])
        with tifffile.TiffWriter(out, bigtiff=True) as file:
            for index, level in enumerate(levels):
                options = {
                    "tile": (512, 512),
                    "photometric": "rgb",
                    "compression": "jpeg",
                    "compressionargs": {"level": 90},
                }
                file.write(np.ascontiguousarray(level), subfiletype=int(index > 0), **options)
    return pixels / 1e6


def main() -> None:
    """Print both rates, the ratio, and where the time went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tile-px", type=int, default=1024)
    parser.add_argument("--region", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--engine", choices=("torch", "openvino"), default="torch")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with open_slide(given.slide) as slide:
        mpp = slide.mpp  # both loops stain the pixels as they are
    settings = SlideSettings(
        tile_px=given.tile_px,
        region=given.region,
        batch=given.batch,
        bfloat16=given.bfloat16,
        engine=given.engine,
        model_mpp=mpp,
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        megapixels = plain_loop(
            given.slide, given.model, Path(folder) / "plain.tif", given.region, given.tile_px, given.device
        )
        plain = megapixels / (time.perf_counter() - start)
        model = load_model(given.model, given.device)
        start = time.perf_counter()
        report = stain_slide(model, given.slide, Path(folder) / "slide.ome.tif", settings)
        seconds = time.perf_counter() - start
    rate = report.megapixels / seconds
    print(f"{'plain loop':24}{plain:8.3f} megapixels per second, statistics of each tile, plain subsampling")
    print(f"{'restain stain':24}{rate:8.3f} megapixels per second, statistics of the slide")
    print(f"{'ratio':24}{rate / plain:8.2f}x")
    large = report.megapixels / (seconds - report.seconds["statistics"])
    print(f"{'ratio, statistics aside':24}{large / plain:8.2f}x, as they take the same for a slide of any size")
    for stage, spent in report.seconds.items():
        print(f"{stage:24}{spent / seconds:8.0%} of the time")


if __name__ == "__main__":
    main()
