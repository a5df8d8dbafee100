"""One window through a generator by each engine: what decides which of them `restain stain` offers on a CPU.

python benchmarks/engines.py [--side-px 656] [--width 32] [--threads 1]

Seconds of the processor, the median of three after a first call, each engine in a process of its own. The weights are
random, which costs the same. Engines that are not installed are left out.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch
from measure import cost
from torch import Tensor

from restain.checkpoint.onnx import export_onnx
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.norm import freeze
from restain.staining.engines import compile_by_openvino
from restain.workers.memory import reused_memory

Run = Callable[[], object]


def as_trained(width: int, side_px: int, bfloat16: bool) -> Run:
    """With its norms, as a plain loop runs it."""
    return _called(Generator(GeneratorConfig(width=width)).eval(), _window(side_px), bfloat16)


def folded(width: int, side_px: int, bfloat16: bool) -> Run:
    """Statistics fixed and folded into the convolutions, channels last."""
    network = _folded(width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as documented
    return _called(network, _window(side_px).contiguous(memory_format=torch.channels_last), bfloat16)


def reusing(width: int, side_px: int, bfloat16: bool) -> Run:
    """The same, and freed memory is used again: what `restain stain` does."""
    _STACK.enter_context(reused_memory())
    return folded(width, side_px, bfloat16)


def compiled(width: int, side_px: int, bfloat16: bool) -> Run:
    """The same as `folded`, by torch.compile."""
    network = torch.compile(_folded(width).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    return _called(network, _window(side_px).contiguous(memory_format=torch.channels_last), bfloat16)


def onnx_runtime(width: int, side_px: int, bfloat16: bool) -> Run:
    """Folded, exported, and run by ONNX Runtime."""
    import onnxruntime

    assert not bfloat16, "it has none on a CPU"

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "generator.onnx"
        export_onnx(_folded(width), path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    window = {session.get_inputs()[0].name: _window(side_px).numpy()}
    return lambda: session.run(None, window)


def openvino(width: int, side_px: int, bfloat16: bool) -> Run:
    """Folded, by OpenVINO."""
    network, window = compile_by_openvino(_folded(width), bfloat16=bfloat16), _window(side_px)
    return lambda: network(window)


_STACK = ExitStack()
"""Left when the process ends."""


def _folded(width: int) -> torch.nn.Module:
    return freeze(Generator(GeneratorConfig(width=width, norm="batch")).eval())  # its statistics are there untrained


def _window(side_px: int) -> Tensor:
    return torch.rand(1, 3, side_px, side_px)


def _called(network: Callable[[Tensor], Tensor], window: Tensor, bfloat16: bool) -> Run:
    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            network(window)

    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side-px", type=int, default=656)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    engines = [as_trained, folded, reusing, compiled]
    engines += [
        engine for engine, module in ((onnx_runtime, "onnxruntime"), (openvino, "openvino")) if find_spec(module)
    ]
    print(f"{'':16}{'float32':>10}{'ratio':>8}{'bfloat16':>10}{'ratio':>8}", flush=True)
    first = None
    for engine in engines:
        print(f"{engine.__name__:16}", end="", flush=True)
        for bfloat16 in (False, True):
            if engine is onnx_runtime and bfloat16:
                continue
            took = cost(engine, given.width, given.side_px, bfloat16, threads=given.threads).cpu_seconds
            first = first or took
            print(f"{took:10.2f}{first / took:7.1f}x", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
