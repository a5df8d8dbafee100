"""What stains best per minute of one core, on pairs in register: learning curves of choices of networks and losses.

    OMP_NUM_THREADS=1 python benchmarks/starter_curves.py colon --out curves.csv --minutes 2 "restain-small" "L1 alone"

Each row is trained for the same processor time, with the rate falling in the second half; the held-out side is measured
after a quarter, half and all of it. Rows that the CSV has already are left out: the same command resumes.
`colon` holds trainA, trainB_aligned, valA and valB_aligned (MIST layout, `restain phantom` writes them too).
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from restain.checkpoint import load_checkpoint, save_checkpoint
from restain.data.augment import Augment, crop_and_mirror, draw_change, jitter_colour
from restain.folders import list_images
from restain.image import load_image, to_tensor, to_uint8
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.losses.density import density_loss
from restain.losses.distance import l1_loss
from restain.losses.similarity import ssim_loss
from restain.methods.base import descend, frozen
from restain.metrics.expression import dab_densities, dice, mean_absolute_difference, positive_areas
from restain.metrics.similarity import psnr, ssim
from restain.metrics.structure import haematoxylin_correlation
from restain.networks.auxiliary import Autoencoder
from restain.networks.blocks import initialise
from restain.networks.discriminator import Discriminator
from restain.networks.generator import Generator, GeneratorConfig
from restain.randomness import generator as derived
from restain.stains import to_unit
from restain.training.schedule import rate_factor

PLAIN = {"width": 32, "norm": "batch", "antialias": True, "spectral": False, "start": "he", "lr": 5e-4, "batch": 4}
PLAIN |= {"crop": 128, "ssim": 0.5, "density": 5.0, "gan": 0.02, "bfloat16": True, "channels_last": True}
PLAIN |= {"features": 0.0}
TAPS = ("down1", "down2", "block2")
"""Stages of the IHC autoencoder whose features are compared."""
ROWS: dict[str, dict[str, object]] = {
    "restain-small": {},
    "with the autoencoder's features": {"features": 0.5},
    "width 24": {"width": 24},
    "width 48": {"width": 48},
    "no discriminator": {"gan": 0.0},
    "no density": {"density": 0.0},
    "L1 alone": {"gan": 0.0, "ssim": 0.0, "density": 0.0},
    "L1 alone, strided": {"gan": 0.0, "ssim": 0.0, "density": 0.0, "antialias": False},
    "L1 alone, instance norm": {"gan": 0.0, "ssim": 0.0, "density": 0.0, "norm": "instance"},
    "L1 alone, no norm": {"gan": 0.0, "ssim": 0.0, "density": 0.0, "norm": "none"},
    "L1 alone, rate 1e-3": {"gan": 0.0, "ssim": 0.0, "density": 0.0, "lr": 1e-3},
    "L1 alone, start at 0.02 Xavier": {"gan": 0.0, "ssim": 0.0, "density": 0.0, "start": "xavier"},
    "L1 alone, as the CUT family": {
        "gan": 0.0,
        "ssim": 0.0,
        "density": 0.0,
        "norm": "instance",
        "antialias": True,
        "spectral": True,
        "start": "xavier",
        "lr": 2e-4,
    },
    "L1 alone, 2 crops of 192": {"gan": 0.0, "ssim": 0.0, "density": 0.0, "batch": 2, "crop": 192},
}
COLUMNS = ("row", "minutes", "steps", "dice", "psnr", "ssim", "haematoxylin_r", "dab_error")


def images(folder: Path) -> np.ndarray:
    """All images of a folder, N x H x W x 3, 8 bits."""
    return np.stack([load_image(path) for path in list_images(folder)])


def batch(he: np.ndarray, ihc: np.ndarray, step: int, size: int, crop: int) -> tuple[Tensor, Tensor]:
    """Random crops as `restain train` draws them; a function of the step alone."""
    sides: list[tuple[Tensor, Tensor]] = []
    draws = derived(0, "curves", step)
    for index in torch.randint(len(he), (size,), generator=draws).tolist():
        change = draw_change(Augment(flips=True), (he.shape[2], he.shape[1]), (crop, crop), draws)
        sides.append(
            (
                jitter_colour(to_tensor(crop_and_mirror(he[index], change)), change),
                to_tensor(crop_and_mirror(ihc[index], change)),
            )
        )
    return torch.cat([one for one, _ in sides]), torch.cat([other for _, other in sides])


@torch.no_grad()
def measure(network: nn.Module, he: np.ndarray, real: np.ndarray, bfloat16: bool) -> dict[str, float]:
    """The figures of the held-out side, tile by tile."""
    network.eval()
    found: dict[str, list[Tensor]] = {}
    for one, other in zip(he, real, strict=True):
        x, y = to_tensor(one), to_unit(to_tensor(other))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            v = network(x)
        v = to_unit(to_tensor(to_uint8(v.float())))
        columns = {"psnr": psnr(v, y), "ssim": ssim(v, y), "haematoxylin_r": haematoxylin_correlation(v, to_unit(x))}
        for name, values in {**columns, "areas": positive_areas(v, y), "dab": dab_densities(v, y)}.items():
            found.setdefault(name, []).append(values)
    network.train()
    whole = {name: torch.cat(values) for name, values in found.items()}
    return {name: float(whole[name].nanmean()) for name in ("psnr", "ssim", "haematoxylin_r")} | {
        "dice": float(dice(*whole["areas"].T)),
        "dab_error": float(mean_absolute_difference(*whole["dab"].T)),
    }


def feature_distance(autoencoder: Autoencoder, v: Tensor, y: Tensor) -> Tensor:
    """Mean over the taps of the L1 distance of features, relative to the size of the real ones."""
    with torch.no_grad():
        real = autoencoder.features(y, TAPS)
    virtual = autoencoder.features(v, TAPS)
    return torch.stack([l1_loss(virtual[tap], real[tap]) / real[tap].abs().mean() for tap in TAPS]).mean()


Sides = tuple[np.ndarray, np.ndarray]
"""H&E and IHC."""


def train(
    name: str, learnt: Sides, held_out: Sides, minutes: float, out: Path, autoencoder: Autoencoder | None
) -> Generator:
    """Train one row and append its figures."""
    choice = PLAIN | ROWS[name]
    torch.manual_seed(0)
    network = Generator(
        GeneratorConfig(
            width=choice["width"],
            norm=choice["norm"],
            antialias=choice["antialias"],
            spectral_norm=choice["spectral"],
        )
    )
    if choice["start"] == "he":
        initialise(network, scheme="he")
    judge = Discriminator(32, 3, channels=6, antialias=False, norm="none")
    initialise(judge, gain=1.0)
    layout = torch.channels_last if choice["channels_last"] else torch.preserve_format
    network.to(memory_format=layout), judge.to(memory_format=layout)
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=choice["lr"], betas=(0.9, 0.99)),
        torch.optim.Adam(judge.parameters(), lr=2e-4, betas=(0.5, 0.99)),
    ]
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    used, step, looks = 0.0, 0, [minutes / 4, minutes / 2, minutes]
    rows: list[dict[str, object]] = []
    while looks:
        begun = time.process_time()
        share = min(1.0, used / 60 / minutes)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * rate_factor(round(1000 * share), 1000, 500)
        x, y = (side.to(memory_format=layout) for side in batch(*learnt, step, choice["batch"], choice["crop"]))
        with torch.autocast("cpu", torch.bfloat16, enabled=choice["bfloat16"], cache_enabled=False):
            v = network(x)
            loss = l1_loss(v, y)
            if choice["ssim"]:
                loss = loss + choice["ssim"] * ssim_loss(v, y)
            if choice["density"]:
                loss = loss + choice["density"] * density_loss(v, y)
            if choice["features"]:
                loss = loss + choice["features"] * feature_distance(autoencoder, v, y)
            if choice["gan"]:
                real, fake = judge(torch.cat([x, y], 1)), judge(torch.cat([x, v.detach()], 1))
                descend(lsgan_discriminator_loss(real, fake), optimizers[1])
                with frozen(judge):
                    loss = loss + choice["gan"] * lsgan_generator_loss(judge(torch.cat([x, v], 1)))
            descend(loss, optimizers[0])
        step, used = step + 1, used + time.process_time() - begun
        if used >= 60 * looks[0]:
            figures = measure(network, *held_out, choice["bfloat16"])
            row = {"row": name, "minutes": looks.pop(0), "steps": step} | {k: round(f, 4) for k, f in figures.items()}
            rows.append(row)
            print(row, flush=True)
    with out.open("a", newline="", encoding="utf-8") as file:  # at the end, so that a stopped row leaves nothing
        csv.DictWriter(file, COLUMNS).writerows(rows)
    return network


def main() -> None:
    """Train the rows that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("rows", nargs="*", default=list(ROWS), help=f"of {', '.join(ROWS)}; all if none is named")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.0, help="of processor time for each row")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoint of each row")
    parser.add_argument("--ihc", default="trainB_aligned", help="what is learned from: trainB for displaced pairs")
    parser.add_argument("--autoencoder", type=Path, help="checkpoint of `reconstruct` on the IHC, for its features")
    given = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    if not given.out.exists():
        given.out.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    learnt = images(given.root / "trainA"), images(given.root / given.ihc)
    held_out = images(given.root / "valA"), images(given.root / "valB_aligned")
    autoencoder = None
    if given.autoencoder:
        autoencoder = load_checkpoint(given.autoencoder)[0].eval().requires_grad_(requires_grad=False)
    for name in given.rows:
        if (PLAIN | ROWS[name])["features"] and autoencoder is None:
            print(f"{name}: left out; give --autoencoder", flush=True)
            continue
        with given.out.open(encoding="utf-8") as file:
            done = {(row["row"], float(row["minutes"])) for row in csv.DictReader(file)}
        if (name, given.minutes) not in done:
            network = train(name, learnt, held_out, given.minutes, given.out, autoencoder)
            if given.keep:
                save_checkpoint(given.keep / f"{name}.safetensors", network, method="curves")


if __name__ == "__main__":
    main()
