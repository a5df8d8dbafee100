"""What runs the network: torch, or OpenVINO, which fuses layers and in bfloat16 is faster than torch on a CPU."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from restain.errors import InputError, MissingError
from restain.networks.norm import OnStep, freeze
from restain.slides.tiling import Box
from restain.staining.model import Model
from restain.staining.plan import Plan
from restain.staining.policies import DenseNorm, SharedNorm, TileNorm, WindowStainer, tiled_network
from restain.staining.settings import SlideSettings
from restain.staining.statistics import SAMPLE_PX, load_statistics, sample_statistics, save_statistics


def network_of(
    model: Model, plan: Plan, settings: SlideSettings, kept: Path, on_progress: OnStep | None = None, *, job: str = ""
) -> WindowStainer:
    """The generator under its norm policy.

    Args:
        model: what stains.
        plan: of the slide.
        settings: which policy, which engine.
        kept: where the statistics of a slide are kept; those that an earlier run took are taken up again.
        on_progress: called while statistics are taken, with steps done and in all.
        job: of the result; statistics of another one are replaced.

    Raises:
        InputError: the engine cannot follow the policy or the device, or the statistics kept are another model's.
        OutputError: the statistics cannot be kept.
    """
    generator, device, norm = model.generator, model.device, settings.norm
    by_openvino, is_folded = settings.engine == "openvino", not isinstance(norm, DenseNorm | TileNorm)
    if by_openvino and not (is_folded and device.type == "cpu"):
        raise InputError(
            "OpenVINO needs a CPU and the norm 'slide' or a file of statistics; choose these, or the engine torch"
        )
    if not is_folded:
        run = tiled_network(generator, norm, plan.size, plan.read, tile_px=plan.tile_px)
    else:
        if isinstance(norm, SharedNorm):
            statistics = norm.statistics
        else:
            try:
                statistics = load_statistics(kept, model=model.sha256, job=job)
            except (MissingError, InputError):  # not there yet, damaged, or of another result
                tiles = list(plan.tiles(SAMPLE_PX))
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
                    statistics = sample_statistics(generator, tiles, plan.read, on_progress=on_progress)
                save_statistics(kept, statistics, model=model.sha256, job=job)
        frozen = freeze(generator, statistics)
        if by_openvino:
            compiled = compile_by_openvino(frozen, bfloat16=settings.bfloat16)
            return lambda windows, _: compiled(windows)
        # channels last: a seventh less time on a CPU, at width 32
        frozen = frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as torch documents

        def run(windows: Tensor, place: Box) -> Tensor:
            del place
            virtual: Tensor = frozen(windows.to(device, memory_format=torch.channels_last))
            return virtual

    def network(windows: Tensor, place: Box) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
            return run(windows, place)

    return network


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
        raise InputError("openvino is missing; install restain[openvino], or choose the engine torch") from error
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.convert_model(network, example_input=torch.zeros(1, 3, 64, 64))
    compiled = openvino.compile_model(model, "CPU", settings)
    return lambda windows: torch.from_numpy(compiled(windows.numpy())[0].copy())  # the next call writes there
