"""How much slower a training and a staining become beside busy processes, by how OpenMP's threads wait.

    python benchmarks/load.py [--seconds 10] [--rounds 3] [--busy 2] [--spins default 0 1000 10000 100000 passive]

Each way of waiting has a process of its own with as many threads as torch chooses. They take turns: some seconds alone,
some seconds beside this script's own busy processes, round after round, all others being stopped meanwhile. The figures
are medians over the rounds of steps per second alone, beside the busy ones, and their ratio. Whatever else the machine
does slows both sides of a ratio, and makes "alone" less alone: the script prints the load that it found.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

from restain.workers.cores import SPINS

WORKER = """
import sys, time
import torch
from restain.networks.generator import Generator, GeneratorConfig
torch.manual_seed(0)
kind, seconds = sys.argv[1], float(sys.argv[2])
network = Generator(GeneratorConfig(width=16)).to(memory_format=torch.channels_last)
image = torch.rand(1, 3, 128, 128).contiguous(memory_format=torch.channels_last)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
def train():
    optimizer.zero_grad()
    network(image).abs().mean().backward()
    optimizer.step()
@torch.inference_mode()
def stain():
    network(image)
run = {"train": train, "stain": stain}[kind]
run()
print("ready", flush=True)
for _ in sys.stdin:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        run()
        count += 1
    print(count / (time.perf_counter() - start), flush=True)
"""

BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


@dataclass
class Contender:
    """One way of waiting at work."""

    spins: str
    kind: str
    seconds: float
    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        if self.spins == "passive":
            environment["OMP_WAIT_POLICY"] = "PASSIVE"
        elif self.spins != "default":
            environment["GOMP_SPINCOUNT"] = self.spins
        command = [sys.executable, "-c", WORKER, self.kind, str(self.seconds)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._hear()

    def rate(self) -> float:
        """Steps per second over some seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self._hear())

    def _hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def measure(spins: list[str], kind: str, *, seconds: float, rounds: int, busy: int) -> list[Contender]:
    """All contenders in turns."""
    contenders = [Contender(each, kind, seconds) for each in spins]
    for _ in range(rounds):
        for one in contenders:
            one.alone.append(one.rate())
            burners = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
            time.sleep(0.3)
            one.beside.append(one.rate())
            for burner in burners:
                burner.kill()
                burner.wait()
    for one in contenders:
        one.process.kill()
        one.process.wait()
    return contenders


def report(seconds: float, rounds: int, busy: int, spins: list[str]) -> None:
    """Print a line for each way of waiting, for training and staining."""
    print(f"{os.cpu_count()} cores, {busy} busy processes of our own; load average {os.getloadavg()[0]:.1f} before")
    print(f"{'':8}{'waiting':>10}{'alone /s':>10}{'beside /s':>11}{'slower':>9}{'alone, of the default':>24}")
    for kind in ("train", "stain"):
        found = measure(spins, kind, seconds=seconds, rounds=rounds, busy=busy)
        first = found[0]
        for one in found:
            slower = statistics.median(a / b for a, b in zip(one.alone, one.beside, strict=True))
            share = statistics.median(a / b for a, b in zip(one.alone, first.alone, strict=True))
            mark = "  <- restain" if one.spins == str(SPINS) else ""
            print(
                f"{kind:8}{one.spins:>10}{statistics.median(one.alone):10.2f}{statistics.median(one.beside):11.2f}"
                f"{slower:8.1f}x{share:24.2f}{mark}",
                flush=True,
            )


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--spins", nargs="+", default=["default", "0", "1000", str(SPINS), "100000", "passive"])
    given = parser.parse_args()
    report(given.seconds, given.rounds, given.busy, given.spins)


if __name__ == "__main__":
    main()
