"""One VSMT step, against the same step with every pass run naively; and how the cost per image falls with the batch.

    python benchmarks/vsmt_step.py [--crop-px 256] [--width 64] [--published]

`--published` also runs the step of the published recipe (crop 512, width 64, batch 1) and prints its peak memory.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measure import Cost, cost

from restain.data.pairs import Pair
from restain.methods.base import Progress
from restain.methods.vsmt import Vsmt, VsmtConfig
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier

sys.path.append(str(Path(__file__).parents[1] / "tests" / "methods"))
from naive_vsmt import NaiveVsmt  # the oracle of the tests


def prepare(name: str, crop_px: int, width: int, batch: int) -> Callable[[], object]:
    """A method in the middle of its training, and one step of it."""
    torch.manual_seed(0)
    auxiliary = AuxiliaryConfig(width=width)
    config = VsmtConfig(width=width, region_size=16 if crop_px >= 512 else 8)
    method = {"ours": Vsmt, "naive": NaiveVsmt}[name](
        config,
        he_autoencoder=Autoencoder(auxiliary),
        he_classifier=Classifier(auxiliary),
        ihc_autoencoder=Autoencoder(auxiliary),
        ihc_classifier=Classifier(auxiliary),
    ).train()
    images = torch.rand(2, batch, 3, crop_px, crop_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    index = torch.arange(batch)
    pair = Pair(images[0], images[1], grade=index % 4, index=index, names=tuple(map(str, range(batch))))
    optimizers = method.optimizers()
    progress = Progress(seed=0, step=1000, steps=10_000, steps_per_epoch=200)
    return lambda: method.step(pair, optimizers, progress)


def main() -> None:
    """Print costs and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crop-px", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--published", action="store_true")
    arguments = parser.parse_args()
    crop, width = arguments.crop_px, arguments.width
    print(f"crop {crop}, width {width}, float32, 2 threads")
    print(f"{'':28}{'s / image':>10}{'peak MiB':>12}")
    ours, naive, four = (show(name, crop, width, batch) for name, batch in (("ours", 1), ("naive", 1), ("ours", 4)))
    print(f"naive / ours: {naive.seconds / ours.seconds:.2f}x time, {naive.peak_mib / ours.peak_mib:.2f}x peak memory")
    print(f"batch 1 / batch 4, time per image: {ours.seconds / (four.seconds / 4):.2f}x")
    if arguments.published:
        show("ours", 512, 64, 1)


def show(name: str, crop_px: int, width: int, batch: int) -> Cost:
    """Measure one configuration and print its row."""
    figure = cost(prepare, name, crop_px, width, batch)
    label = f"{name}, crop {crop_px}, batch {batch}"
    print(f"{label:28}{figure.seconds / batch:10.2f}{figure.peak_mib:12.0f}", flush=True)
    return figure


if __name__ == "__main__":
    main()
