"""The viewer: seconds until a slide is open, until tiles arrive, and the ratio of staining by looking to `stain`.

python benchmarks/viewer.py [--side-px 4096] [--huge-px 100000] [--width 32] [--tile-px 512] [--bfloat16]

Draws two slides: one of `--side-px`, all of it tissue, on which a screen of 1500 x 900 px is looked at, and one of
`--huge-px`, a sixteenth of it tissue, of which `--tiles` tiles of tissue are looked at. The network is untrained, which
makes no difference to time. Processor seconds per core are printed beside the seconds on the clock: what an idle
machine would take if work spread evenly.
"""

import argparse
import os
import resource
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from restain.checkpoint import save_checkpoint
from restain.networks.generator import Generator, GeneratorConfig
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.staining.model import load_model
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide
from restain.viewer import Server, View, open_view

MPP = 0.5
SCREEN = 1500, 900


def draw(path: Path, side: int, tissue: int) -> None:
    """One tile of pink and violet, everywhere in a square of `tissue` px in the upper left corner; glass elsewhere."""
    rng = np.random.default_rng(0)
    tile = (np.array([210, 140, 185]) + rng.normal(0, 25, (512, 512, 1))).clip(0, 255).astype(np.uint8)

    def drawn(x: int, y: int, width: int, height: int) -> NDArray[np.uint8] | None:
        return tile[:height, :width] if max(x, y) < tissue else None

    write_slide(path, (side, side), drawn, Description("drawn", MPP))


def memory_gb() -> float:
    """The most that this process has taken so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def ask(address: str) -> tuple[float, str]:
    """Seconds of one request, and whether the tile is whole."""
    start = time.perf_counter()
    with urllib.request.urlopen(address) as answer:
        answer.read()
        return time.perf_counter() - start, answer.headers.get("X-Whole", "")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("side-px", 4096), ("huge-px", 100_000), ("width", 32), ("tile-px", 512), ("tiles", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = Generator(GeneratorConfig(width=options.width))
        save_checkpoint(folder / "model.safetensors", generator, method="cut", mpp=MPP)
        draw(folder / "he.ome.tif", options.side_px, options.side_px)
        draw(folder / "huge.ome.tif", options.huge_px, options.huge_px // 4)

        start = time.perf_counter()
        with open_view(View(folder / "huge.ome.tif"), []) as viewer:
            server = Server(viewer, "127.0.0.1", 0)
            thread = server.start()
            ask(f"{server.address}scene.json")
            print(f"opening {options.huge_px} px: {time.perf_counter() - start:.2f} s")
            print(f"first H&E tile: {1e3 * ask(f'{server.address}tiles/he/0/3_3')[0]:.0f} ms")
            cached = sorted(ask(f"{server.address}tiles/he/0/3_3")[0] for _ in range(20))[10]
            print(f"cached H&E tile, median of 20: {1e3 * cached:.1f} ms")
            before, start = memory_gb(), time.perf_counter()
            count = options.huge_px // 4 // 512
            for row, column in np.random.default_rng(0).integers(0, count, (options.tiles, 2)):
                ask(f"{server.address}tiles/he/0/{column}_{row}")
            each = 1e3 * (time.perf_counter() - start) / options.tiles
            print(f"{options.tiles} tiles at random places: {each:.0f} ms each; memory {before:.2f} GB before, "
                  f"{memory_gb():.2f} GB after")  # fmt: skip
            server.close()
            thread.join()

        settings = SlideSettings(tile_px=options.tile_px, bfloat16=options.bfloat16)
        view = View(folder / "he.ome.tif", (folder / "model.safetensors",), out=folder, settings=settings)
        with open_view(view, []) as viewer:
            server = Server(viewer, "127.0.0.1", 0)
            thread = server.start()
            start = time.perf_counter()
            columns, rows = (-(-side // 512) for side in SCREEN)
            places = [(row, column) for row in range(1, 1 + rows) for column in range(1, 1 + columns)]
            live = viewer.image("virtual1").pixels
            while live.state()["phase"] != "ready":
                time.sleep(0.02)
            print(f"statistics: {time.perf_counter() - start:.2f} s")
            start, work = time.perf_counter(), time.process_time()
            live.look("bench", places)
            waiting = [f"{server.address}tiles/virtual1/0/{column}_{row}" for row, column in places]
            while waiting:
                waiting = [address for address in waiting if ask(address)[1] != "1"]
                time.sleep(0.02)
            looked = time.perf_counter() - start
            cores = torch.get_num_threads()
            print(f"first screen, {len(places)} tiles: {looked:.2f} s; "
                  f"{(time.process_time() - work) / cores:.2f} s of each of {cores} cores")  # fmt: skip
            server.close()
            thread.join()

        left, top = 512, 512
        region = (left, top, 512 * columns, 512 * rows)
        report = stain_slide(
            load_model(folder / "model.safetensors"),
            folder / "he.ome.tif",
            folder / "same.ome.tif",
            SlideSettings(tile_px=options.tile_px, region=region, bfloat16=options.bfloat16),
        )
        print(f"the same tiles by stain: {report.seconds['network']:.2f} s in the network; "
              f"looking takes {looked / report.seconds['network']:.2f} of that")  # fmt: skip
    load = os.getloadavg()[0]
    print(f"{torch.get_num_threads()} threads; peak memory {memory_gb():.2f} GB; load average at the end {load:.1f}")


if __name__ == "__main__":
    main()
