"""Runs a frozen generator by OpenVINO, which fuses its layers: in bfloat16 faster than torch on a CPU."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from restain.errors import InputError


def compile_by_openvino(network: nn.Module, *, bfloat16: bool) -> Callable[[Tensor], Tensor]:
    """Compile a network for this CPU, for as many threads as torch uses.

    Args:
        network: N x 3 x H x W to N x 3 x H x W, on the CPU; local, as `freeze` makes it.
        bfloat16: compute in bfloat16; the processor should have units for it (AMX).

    Returns:
        The network, for any N, H and W.

    Raises:
        InputError: openvino is missing.
    """
    try:
        import openvino
    except ImportError as error:
        raise InputError("--engine openvino: openvino is missing; install restain[openvino]") from error
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.convert_model(network, example_input=torch.zeros(1, 3, 64, 64))
    compiled = openvino.compile_model(model, "CPU", settings)
    return lambda windows: torch.from_numpy(compiled(windows.numpy())[0].copy())  # the next call writes there
