"""Brings one slide and one model together: the plan, the network under its norm policy, the colour of the glass."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from restain.errors import InputError
from restain.image import to_tensor, to_uint8
from restain.networks.norm import freeze
from restain.slides.reader import Slide
from restain.slides.rois import load_roi
from restain.slides.tiling import Box
from restain.slides.tissue import TissueMask, find_tissue
from restain.slides.writer import BACKGROUND, Colour, SlideWriter
from restain.staining.engines import compile_by_openvino
from restain.staining.memory import fitting_tile, most_px
from restain.staining.plan import Plan, Work, make_plan
from restain.staining.policies import Network, find_norm, tiled_network
from restain.staining.settings import Model, SlideSettings
from restain.staining.statistics import SAMPLE_PX, load_statistics, sample_statistics, save_statistics


def plan_of(model: Model, slide: Slide, settings: SlideSettings, notes: list[str]) -> Plan:
    """What of a slide the model stains, and at which scale.

    Args:
        model: what stains.
        slide: what is stained.
        settings: how.
        notes: what is worth knowing is added here.

    Raises:
        InputError, MissingError: as in `find_tissue`, `load_roi` and `make_plan`.
    """
    find_norm(settings.norm, model.sha256)  # a wrong one is said before any work
    halo_px = model.generator.halo_px if settings.halo_px is None else settings.halo_px
    tile_px, multiple = settings.tile_px, model.generator.multiple
    if model.device.type == "cpu":
        most = most_px(model.generator, settings.norm)
        tile_px = fitting_tile(tile_px, halo_px, most, multiple)
        if halo_px > model.generator.halo_px and (tile_px + 2 * halo_px) ** 2 > most:
            raise InputError(
                f"--halo-px {halo_px}: a pass would take more than 1.2 GB of memory; the network sees "
                f"{model.generator.halo_px} px around a tile, and more changes nothing"
            )
    if tile_px != settings.tile_px:
        notes.append(f"tiles of {tile_px} px: those of {settings.tile_px} px would take more than 1.2 GB of memory")
    return make_plan(
        slide,
        _model_mpp(model, slide, settings, notes),
        tile_px=tile_px,
        halo_px=halo_px,
        multiple=multiple,
        region=settings.region,
        tissue=find_tissue(slide) if settings.tissue_mask and not settings.rois else None,
        drawn=load_roi(settings.rois, slide) if settings.rois else None,
    )


def _model_mpp(model: Model, slide: Slide, settings: SlideSettings, notes: list[str]) -> float:
    """Micrometres per pixel at which the network works; says so where it is not the slide's."""
    notes.append(f"{slide.mpp:.4g} µm per px, {slide.mpp_origin}")
    wanted = settings.model_mpp or model.mpp
    if wanted is None:
        notes.append("the model does not tell its µm per px, so the slide is read as it is (see --model-mpp)")
        return slide.mpp
    if slide.scale(wanted) != 1:
        change = "reduced" if slide.scale(wanted) > 1 else "enlarged, which adds no detail,"
        notes.append(f"{change} to {wanted:.4g} µm per px, which the model was trained at")
    return wanted


def network_of(model: Model, plan: Plan, settings: SlideSettings, kept: Path) -> Network:
    """The generator under its norm policy.

    Args:
        model: what stains.
        plan: of the slide.
        settings: which policy.
        kept: where the statistics of the policy `slide` are kept; those that an earlier run took are taken up again.

    Raises:
        InputError, MissingError: as in `find_norm`.
        OutputError: the statistics cannot be kept.
    """
    generator, device = model.generator, model.device
    policy = find_norm(settings.norm, model.sha256)
    if settings.engine == "openvino" and (policy in ("dense", "tile") or device.type != "cpu"):
        raise InputError(
            "--engine openvino runs on a CPU, by --norm slide or a file of statistics; choose these, or torch"
        )
    if policy == "dense" or policy == "tile":
        run = tiled_network(generator, policy, plan.size, plan.read, tile_px=plan.tile_px)
    else:
        if policy == "slide":
            if not kept.exists():
                found = sample_statistics(generator, list(plan.tiles(SAMPLE_PX)), plan.read)
                save_statistics(kept, found, model=model.sha256)
            policy = load_statistics(kept, model=model.sha256)
        frozen = freeze(generator, policy)
        if settings.engine == "openvino":
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


def background_of(network: Network, work: Sequence[Work], plan: Plan, writer: SlideWriter) -> Colour:
    """The colour that the network gives to glass, so that what is left out looks like what is not.

    From the tile with most glass, where one has some; else that of clean glass.
    """
    if noted := writer.spool.note("background"):
        red, green, blue = map(int, noted.split())
        return red, green, blue
    colour = BACKGROUND
    if tissue := _tissue_known(plan):
        scale = plan.slide.scale(plan.mpp)
        shares = [
            tissue.share(*(side * scale for side in (core.x, core.y, core.width, core.height)))
            for core in (one.tile.core for one in work)
        ]
        least = int(np.argmin(shares))
        if shares[least] < 0.9:
            colour = _glass(network, work[least], plan)
    writer.spool.set_note("background", " ".join(map(str, colour)))
    return colour


def _tissue_known(plan: Plan) -> TissueMask | None:
    """The tissue of a slide that is not stained everywhere; drawn polygons do not tell it."""
    if not plan.drawn:
        return plan.tissue
    try:
        return find_tissue(plan.slide)
    except InputError:  # there is none, so that nothing says what is glass
        return None


def _glass(network: Network, work: Work, plan: Plan) -> Colour:
    """Median colour that the network gives to the lightest tenth of a tile."""
    window = work.tile.window
    rgb = plan.read(window)
    virtual = to_uint8(network(to_tensor(rgb), window))[0]
    brightness = rgb.min(axis=2)
    glass = virtual[brightness >= np.quantile(brightness, 0.9)]
    red, green, blue = (int(value) for value in np.median(glass, axis=0))
    return red, green, blue
