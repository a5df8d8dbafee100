"""A VSMT step of this checkout beside the same step of an older one, in turns: seconds of processor time, and memory.

    git worktree add ../before REVISION
    python benchmarks/step.py --before ../before [--crop-px 256] [--width 64] [--batch 1] [--steps 3]

Each checkout has a process of its own with one thread. They take turns step by step, so that whatever else the machine
does slows both; processor time does not count waiting for it. Each step is taken as a training takes it, in the memory
order and precision that the checkout chooses by default for a CPU (`--precision` names the latter).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

WORKER = """
import json, resource, sys, time
import torch
torch.set_num_threads(1)
from restain.data.pairs import Pair
from restain.methods.base import Progress
from restain.methods.vsmt import Vsmt, VsmtConfig
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier
from restain.training.config import TrainingConfig
from restain.training.numerics import compile_stages, memory_format, step_numerics

crop, width, batch, bfloat16, compiled = json.loads(sys.argv[1])
device, config = torch.device("cpu"), TrainingConfig(compile=compiled)
layout = memory_format(config, device)
torch.manual_seed(0)
models, shape = (Autoencoder, Classifier, Autoencoder, Classifier), AuxiliaryConfig(width=width)
settings = VsmtConfig(width=width, region_size=16 if crop >= 512 else 8 if crop >= 256 else 4)
method = Vsmt(settings, *(model(shape) for model in models)).train()
method.to(memory_format=layout)
images = torch.rand(2, batch, 3, crop, crop, generator=torch.Generator().manual_seed(0)) * 2 - 1
index = torch.arange(batch)
pair = Pair(images[0], images[1], grade=index % 4, index=index, names=tuple(map(str, range(batch))))
pair = pair.to(device, layout)
try:
    from restain.networks.convolution import take_fewer_multiplications
except ImportError:  # older checkouts have it in step_numerics, or not at all
    pass
else:
    take_fewer_multiplications(method)
optimizers = method.optimizers()
if compiled:
    compile_stages(method)


def peak_mib():
    try:  # getrusage would count what the process that began this one had in use
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


print("ready", flush=True)
for line in sys.stdin:
    step = int(line)
    wall, cpu = time.perf_counter(), time.process_time()
    with step_numerics(device, bfloat16, 0, step, 0):
        losses = method.step(pair, optimizers, Progress(0, step, 10_000, 200))
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    took["peak_mib"] = peak_mib()
    took["losses"] = {name: float(loss) for name, loss in losses.items()}
    print(json.dumps(took), flush=True)
"""


@dataclass
class Side:
    """One checkout at work."""

    root: Path
    settings: list[object]
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(self.root.absolute()), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORKER, json.dumps(self.settings)]
        self.process = subprocess.Popen(
            command, env=environment, cwd=self.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._hear()

    def step(self, number: int) -> None:
        """Take a step; the first is not counted."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        took = json.loads(self._hear())
        self.peak_mib, losses = took["peak_mib"], took["losses"]
        self.losses = self.losses or losses
        if number:
            self.cpu.append(took["cpu"])
            self.wall.append(took["wall"])

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def in_turns(sides: Sequence[Side], steps: int) -> None:
    """Let all take a step that does not count and so many that do, one after the other."""
    for number in range(steps + 1):
        for side in sides:
            side.step(number)
    for side in sides:
        side.end()


def compare(old: Side, new: Side) -> str:
    """One line of figures of two that have taken their steps in turns."""
    ratios = [one / other for one, other in zip(old.cpu, new.cpu, strict=True)]
    far = max(abs(old.losses[name] - loss) / max(abs(loss), 1e-12) for name, loss in new.losses.items())
    return (
        f"{statistics.median(old.cpu):7.2f} s -> {statistics.median(new.cpu):6.2f} s, "
        f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"{old.peak_mib:5.0f} MiB -> {new.peak_mib:5.0f} MiB, {new.peak_mib / old.peak_mib:.2f} x; "
        f"losses of the first step differ by up to {far:.1e} of themselves"
    )


def main() -> None:
    """Print one line for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="an older checkout")
    parser.add_argument("--crop-px", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="that count, after one that does not")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="this checkout's stages compiled")
    given = parser.parse_args()
    print(f"VSMT step, crop {given.crop_px}, width {given.width}, batch {given.batch}, one thread")
    for precision in given.precision:
        settings = [given.crop_px, given.width, given.batch, precision == "bfloat16"]
        old = Side(given.before, [*settings, False])
        new = Side(Path(__file__).parents[1], [*settings, given.compile])
        in_turns([old, new], given.steps)
        print(f"{precision:9}{compare(old, new)}", flush=True)


if __name__ == "__main__":
    main()
