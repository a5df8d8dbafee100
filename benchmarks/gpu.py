"""Everything that wants a GPU, in one go of at most eight minutes; writes the figures as a page.

    python benchmarks/gpu.py [--colon FOLDER] [--out docs/results/gpu.md]
    python benchmarks/gpu.py --device cpu --tiny

Gradients of every operator in both memory orders; a VSMT step at crop 512 in float32, in bfloat16 and compiled, at
batch 1 and 8; two ranks, where there are two GPUs; staining at width 64, and its share of what the matrix units do in
a plain product; a training at batch 8 on the data set given, else on drawn tissue. `--tiny` runs all of it at small
sizes, to try the script. Each part is a process of its own with a limit of time: one that fails or takes longer is
reported with what it has found, and the next begins.
"""

import argparse
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from restain.data.pairs import Pair
from restain.data.phantom import PhantomSettings, write_pairs
from restain.methods.base import Progress
from restain.methods.vsmt import Vsmt, VsmtConfig
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier
from restain.networks.convolution import take_fewer_multiplications
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.norm import freeze, joint_statistics
from restain.training import load_recipe, train
from restain.training.config import TrainingConfig
from restain.training.numerics import compile_stages, memory_format, step_numerics
from restain.training.state import steps_done

ROOT = Path(__file__).parents[1]


def gradients(device: torch.device) -> Iterator[str]:
    """The table of operators, by its own tests."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/networks/test_gradients.py", "-k", device.type]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    yield f"`pytest tests/networks/test_gradients.py -k {device.type}`: {run.stdout.strip().splitlines()[-1]}"


def steps(device: torch.device, crop: int, width: int, batches: tuple[int, ...]) -> Iterator[str]:
    """Seconds and memory of a VSMT step."""
    yield f"Crop {crop}, width {width}; median of five steps after two.\n"
    yield "| arithmetic | batch | s per step | s per image | peak memory, GiB |\n|---|---|---|---|---|"
    for words, bfloat16, compiled in (
        ("float32", False, False),
        ("bfloat16", True, False),
        ("bfloat16, compiled", True, True),
    ):
        for batch in batches:
            try:
                seconds, peak = step(device, crop, width, batch, bfloat16=bfloat16, compiled=compiled)
                yield f"| {words} | {batch} | {seconds:.3f} | {seconds / batch:.3f} | {peak / 2**30:.2f} |"
            except (RuntimeError, torch.OutOfMemoryError) as error:
                yield f"| {words} | {batch} | failed: {str(error).splitlines()[0][:80]} | – | – |"


def step(
    device: torch.device, crop: int, width: int, batch: int, *, bfloat16: bool, compiled: bool
) -> tuple[float, int]:
    """Seconds and bytes of a VSMT step."""
    torch.manual_seed(0)
    shape = AuxiliaryConfig(width=width)
    settings = VsmtConfig(width=width, region_size=16 if crop >= 512 else 4)
    models = (Autoencoder(shape), Classifier(shape), Autoencoder(shape), Classifier(shape))
    layout = memory_format(TrainingConfig(compile=compiled), device)
    method = Vsmt(settings, *models).to(device).train()
    method.to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.rand(2, batch, 3, crop, crop) * 2 - 1
    index = torch.arange(batch)
    pair = Pair(images[0], images[1], grade=index % 4, index=index, names=tuple(map(str, range(batch))))
    pair, optimizers = pair.to(device, layout), method.optimizers()
    take_fewer_multiplications(method)
    if compiled:
        compile_stages(method)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    took = []
    for number in range(7):
        start = time.perf_counter()
        with step_numerics(device, bfloat16, 0, number, 0):
            method.step(pair, optimizers, Progress(0, number, 10_000, 200))
        _wait(device)
        took.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else _resident()
    return sorted(took[2:])[2], peak


def staining(device: torch.device, width: int, tile_px: int, product: int) -> Iterator[str]:
    """Megapixels per second, and the share of a plain matrix product's rate."""
    torch.manual_seed(0)
    network = Generator(GeneratorConfig(width=width)).to(device).eval()
    image = torch.rand(1, 3, 256, 256) * 2 - 1
    frozen = freeze(network, joint_statistics(network, [image])).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    halo = network.halo_px
    side = tile_px + 2 * halo
    windows = (torch.rand(2, 3, side, side) * 2 - 1).to(device, memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        with FlopCounterMode(display=False) as counter:
            frozen(windows)
        seconds = _seconds(device, lambda: frozen(windows))
    factor = torch.rand(product, product, device=device, dtype=torch.bfloat16)
    peak = 2 * product**3 / _seconds(device, lambda: factor @ factor)
    rate = counter.get_total_flops() / seconds
    yield (
        f"Width {width}, tiles of {tile_px} px with a halo of {halo} px, batch 2, bfloat16, the network alone: "
        f"{2 * tile_px**2 / 1e6 / seconds:.2f} megapixels/s. That is {rate / 1e12:.2f} TFLOP/s, "
        f"{rate / peak:.0%} of the {peak / 1e12:.2f} TFLOP/s of a product of two bfloat16 matrices of {product} rows."
    )


def ranks(device: torch.device, data: Path, folder: Path) -> Iterator[str]:
    """Two processes, where there are two GPUs; on a CPU by gloo."""
    count = torch.cuda.device_count()
    if device.type == "cuda" and count < 2:
        yield f"There was {count} GPU, so that two ranks were not tried."
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "restain"]
    command += ["train", "cut-tiny", "--data", str(data), "--out", str(folder / "ranks"), "--steps", "20"]
    command += ["--set", "data.batch_size=2", "--set", "training.sample_every_steps=0", "--device", device.type]
    start = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    words = "20 steps of `cut-tiny`" if run.returncode == 0 else f"failed: {run.stderr.strip().splitlines()[-1]}"
    yield f"Two ranks by {'nccl' if device.type == 'cuda' else 'gloo'}: {words}, {time.perf_counter() - start:.0f} s."


def training(device: torch.device, data: Path, folder: Path, recipe: str, seconds: float) -> Iterator[str]:
    """A training at batch 8 for about so long, its rate known from a short one."""
    settings = ("data.batch_size=8", "training.sample_every_steps=0")
    begun = time.perf_counter()
    train(load_recipe(recipe, (*settings, "training.steps=8")), data, folder / "short", device=device.type)
    each = (time.perf_counter() - begun) / 8
    count = max(8, int(seconds / each))
    start = time.perf_counter()
    out = folder / "long"
    train(load_recipe(recipe, (*settings, f"training.steps={count}")), data, out, device=device.type)
    took = time.perf_counter() - start
    last = (out / "losses.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    done = steps_done(out / "state.pt")
    yield f"`{recipe}` at batch 8 on {data.name}: {done} steps in {took:.0f} s, {8 * done / took:.1f} images/s."
    yield f"\nLast line of the log: `{last[:300]}`"


def _seconds(device: torch.device, run: Callable[[], object]) -> float:
    run()
    _wait(device)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        _wait(device)
        took.append(time.perf_counter() - start)
    return sorted(took)[2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parts(given: argparse.Namespace, folder: Path, data: Path) -> dict[str, tuple[int, Callable[[], Iterator[str]]]]:
    """Title, most seconds, and what is done."""
    device, tiny = torch.device(given.device), given.tiny
    sizes = (128, 4, (1, 2)) if tiny else (512, 64, (1, 8))
    return {
        "Gradients": (60, partial(gradients, device)),
        "Staining": (40, partial(staining, device, *((8, 128, 512) if tiny else (64, 1024, 8192)))),
        "Two ranks": (60, partial(ranks, device, data, folder)),
        "Training": (140, partial(training, device, data, folder, given.recipe, 5 if tiny else 90)),
        "A step of VSMT": (160, partial(steps, device, *sizes)),
    }


def in_a_process(title: str, seconds: int, folder: Path, data: Path) -> Iterator[str]:
    """The lines of a part, as far as it comes in so many seconds."""
    command = [sys.executable, __file__, *sys.argv[1:], "--part", title, "--folder", str(folder), "--data", str(data)]
    with (folder / "lines.txt").open("w+", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            errors = f"stopped: it took more than {seconds} s"
        file.seek(0)
        yield from file.read().splitlines()
    if process.returncode:
        yield f"\n{title} did not end well: {errors.strip().splitlines()[-1][:200]}"


def main() -> None:
    """Run all parts, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--colon", type=Path, help="data set in pairs; without it, tissue is drawn")
    parser.add_argument("--recipe", default="restain-small")
    parser.add_argument("--out", type=Path, help="page to write")
    parser.add_argument("--tiny", action="store_true")
    for name in ("--part", "--folder", "--data"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        for line in parts(given, Path(given.folder), Path(given.data))[given.part][1]():
            print(line, flush=True)
        return
    begun = time.perf_counter()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; --device cpu --tiny tries the script")
    cuda = given.device == "cuda"
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    lines = ["# On a GPU", "", f"`python benchmarks/gpu.py`, {name}, PyTorch {torch.__version__}.", ""]
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = Path(temporary), given.colon
        if data is None:
            data = folder / "drawn"
            write_pairs(data, 16, validation=2, seed=0, settings=PhantomSettings(size_px=128, mpp=0.5))
        for title, (seconds, _) in parts(given, folder, data).items():
            lines += [f"## {title}", ""]
            print(lines[-2], flush=True)
            for line in in_a_process(title, seconds * (3 if given.tiny else 1), folder, data):  # a CPU may be busy
                print(line, flush=True)
                lines.append(line)
            lines.append("")
    print(f"{time.perf_counter() - begun:.0f} s in all")
    if given.out:
        given.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
