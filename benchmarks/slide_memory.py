"""Peak memory of staining a slide of 100,000 x 100,000 px, all of it tissue, at several tile settings.

python benchmarks/slide_memory.py [--side-px 100000] [--width 64] [--tile-px 512 4096] [--batch 1 4] [--unet]

Each setting runs in a process of its own, up to the second batch: all that is kept for the whole slide (tissue, work,
statistics) is there by then, and a pass of the network takes what every pass does. The network was never trained, which
makes no difference to memory. `--finish` measures, instead, the last step: a pyramid and a file of this many px.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from restain.checkpoint import save_checkpoint
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.norm import joint_statistics
from restain.networks.unet import UNet, UNetConfig
from restain.slides.codec import Codec
from restain.slides.pyramid import Pyramid
from restain.slides.tiff import Description
from restain.slides.writer import SlideWriter, write_slide
from restain.staining.model import load_model
from restain.staining.policies import find_norm
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide
from restain.staining.statistics import save_statistics

MPP = 0.25


class EnoughError(Exception):
    """Stops a run."""


def one(folder: Path, tile_px: int, batch: int, norm: str) -> None:
    """Stain two batches, and print how much memory that took."""
    torch.set_num_threads(1)
    calls = 0

    def count(*_: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise EnoughError

    settings = SlideSettings(tile_px=tile_px, batch=batch, norm=find_norm(norm))
    notes = ""
    try:
        stain_slide(load_model(folder / "model.safetensors"), folder / "he.ome.tif", folder / "out.ome.tif", settings,
                    overwrite=True, on_progress=count)  # fmt: skip
    except EnoughError:
        pass
    except Exception as error:
        notes = str(error)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB {notes}")


def finish(folder: Path, side_px: int) -> None:
    """Put a file together of which every tile is kept, and print how much memory that took."""
    pyramid = Pyramid((side_px, side_px))
    with SlideWriter(folder / "whole.ome.tif", pyramid, Description("whole", MPP), job="one") as writer:
        data = Codec().encode(torch.full((512, 512, 3), 200, dtype=torch.uint8).numpy())
        for level in range(len(pyramid.levels)):
            writer.put((position, data) for position in pyramid.positions(level))
        writer.finish()
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def main() -> None:
    """Measure each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side-px", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--tile-px", type=int, nargs="+", default=[256, 512, 1024, 4096])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--norm", default="file", help="slide, dense, tile, or file: statistics from elsewhere")
    parser.add_argument("--unet", action="store_true", help="the network of pix2pix; it needs no statistics")
    parser.add_argument("--finish", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one and given.finish:
        finish(given.one, given.side_px)
        return
    if given.one:
        norm = str(given.one / "statistics.safetensors") if given.norm == "file" else given.norm
        one(given.one, given.tile_px[0], given.batch[0], norm)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.finish:
            _again(folder, "--finish", "--side-px", given.side_px)
            return
        if given.unet:
            given.norm = "slide"
            save_checkpoint(
                folder / "model.safetensors", UNet(UNetConfig(width=given.width)), method="pix2pix", mpp=MPP
            )
        else:
            network = Generator(GeneratorConfig(width=given.width))
            save_checkpoint(folder / "model.safetensors", network, method="none", mpp=MPP)
            save_statistics(folder / "statistics.safetensors", joint_statistics(network, [torch.rand(1, 3, 64, 64)]))
        side = given.side_px  # one tile of tissue colour stands for all of them
        pink = (200, 120, 170)
        write_slide(folder / "he.ome.tif", (side, side), lambda *_: None, Description("pink", MPP), background=pink)
        for tile_px in given.tile_px:
            for batch in given.batch:
                print(
                    f"{side} px, width {given.width}, {given.norm}, tile {tile_px}, batch {batch}: ", end="", flush=True
                )
                _again(folder, "--tile-px", tile_px, "--batch", batch, "--norm", given.norm)


def _again(folder: Path, *arguments: object) -> None:
    """The same script in a fresh process, for one measurement."""
    subprocess.run([sys.executable, __file__, "--one", folder, *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
