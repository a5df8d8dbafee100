"""What a training step of every method costs, relative to FastCUT in the same run.

    python benchmarks/methods.py [--crop-px 256] [--width 64] [--batch 2] [--threads 2] [--repeats 3] [--only NAME ...]

Each method steps in a process of its own, in float32 on the CPU, on random images, with auxiliary models that were not
trained. FastCUT is measured first and last: how far the two differ is how far to trust the figures. Processor time is
what is compared, because it does not count waiting for other processes; it is that of all threads together.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import torch
from measure import Cost, cost
from torch import nn

from restain.data.pairs import Pair
from restain.methods import METHODS
from restain.methods.base import Method, Progress

REFERENCE = "fastcut"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    REFERENCE: ("cut", {"fast": True}),
    **{name: (name, {}) for name in METHODS},
    "vsmt, no guidance": ("vsmt", {"guidance": False}),
}


def untrained(name: str, settings: Mapping[str, Any]) -> Method:
    """A method with its first weights, and with auxiliary models that have theirs."""
    kind = METHODS[name]
    config = kind.Config(**settings)
    models: dict[str, nn.Module] = {
        role: untrained(model.method, model.model).product() for role, model in kind.auxiliary(config).items()
    }
    return kind(config, **{role: model.requires_grad_(False).eval() for role, model in models.items()})


def prepare(name: str, settings: Mapping[str, Any], crop_px: int, batch: int) -> Callable[[], object]:
    """A method in the middle of its training, and one step of it."""
    torch.manual_seed(0)
    method = untrained(name, settings).train()
    images = torch.rand(2, batch, 3, crop_px, crop_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    index = torch.arange(batch)
    names, density = tuple(map(str, range(batch))), (images[1, :, :1] + 1) / 2
    pair = Pair(images[0], images[1], grade=index % 4, index=index, names=names, density=density)
    optimizers = method.optimizers()
    progress = Progress(seed=0, step=1000, steps=10_000, steps_per_epoch=200, decay_left=0.5)
    return lambda: method.step(pair, optimizers, progress)


def main() -> None:
    """Print one row per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop-px", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    crop_px, batch = arguments.crop_px, arguments.batch

    def measured(row: str) -> Cost:
        name, given = VARIANTS[row]
        settings = {"width": arguments.width} | given
        return cost(prepare, name, settings, crop_px, batch, repeats=arguments.repeats, threads=arguments.threads)

    print(f"crop {crop_px}, width {arguments.width}, batch {batch}, float32, {arguments.threads} threads\n")
    print("| method | s / step | CPU s / step | to FastCUT | peak MiB | to FastCUT |\n|---|---:|---:|---:|---:|---:|")
    reference = measured(REFERENCE)
    show(REFERENCE, reference, reference)
    for row in arguments.only:
        needs = METHODS[VARIANTS[row][0]].needs(METHODS[VARIANTS[row][0]].Config(**VARIANTS[row][1]))
        if batch < needs.images or crop_px < needs.crop_px or crop_px % needs.crop_multiple:
            print(f"| {row} | needs at least {needs} | | | | |", flush=True)
        elif row != REFERENCE:
            show(row, measured(row), reference)
    show(f"{REFERENCE}, again", measured(REFERENCE), reference)


def show(row: str, figure: Cost, reference: Cost) -> None:
    """Print a row of the table."""
    time, memory = figure.cpu_seconds / reference.cpu_seconds, figure.peak_mib / reference.peak_mib
    cells = (f"{figure.seconds:.2f}", f"{figure.cpu_seconds:.2f}", f"{time:.2f}")
    print(f"| {' | '.join((row, *cells, f'{figure.peak_mib:.0f}', f'{memory:.2f}'))} |", flush=True)


if __name__ == "__main__":
    main()
