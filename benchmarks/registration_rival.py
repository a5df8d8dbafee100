"""SimpleITK's B-spline registration against our block matching, on the same truth. Needs `pip install SimpleITK`.

python benchmarks/registration_rival.py tiles DATA LOG [--every 9]     tiles whose displacement is known
python benchmarks/registration_rival.py slides FOLDER LOG [--pairs 3]  slides drawn by registration_slides.py

SimpleITK gets what ours gets: haematoxylin of both sides, once as it is and once locally normalised, a turn and a shift
to begin with (ours, and by itself), and metrics that suit. On slides it also gets our mask of the tissue, and refines
the affine map before the B-spline. LOG takes a line for each pair and way; the same command resumes.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as its documentation does)
import torch
from numpy.typing import NDArray
from PIL import Image
from registration_slides import attempt, drawn, files, seeds_in
from registration_tiles import logged, missed, note, pairs_of, spread, true_displacement

from restain.image import to_tensor
from restain.registration.channels import Channels, shared_channels
from restain.registration.coarse import coarsest, turn_and_shift
from restain.registration.field import Affine, Floats, Map, field_of
from restain.registration.overview import look
from restain.registration.search import find_lie
from restain.registration.tiles import WORK_PX, align_tile
from restain.slides.reader import open_slide

SPACING_PX, SLIDE_MPP = 32, 2.0
"""Distance of the B-spline's control points in px of the channels; resolution at which whole slides are registered."""
LEVELS = (4, 2, 1)
SAMPLED = 0.2
"""Share of the pixels of a slide that the metric looks at."""


def image_of(channels: Channels) -> sitk.Image:
    """The haematoxylin as SimpleITK wants it."""
    image = sitk.GetImageFromArray(channels.values[0].astype(np.float32))
    image.SetSpacing((channels.pitch, channels.pitch))
    image.SetOrigin((channels.pitch / 2, channels.pitch / 2))
    return image


def method(metric: str, mask: sitk.Image | None = None) -> sitk.ImageRegistrationMethod:
    """What all stages share; with a mask, a share of its pixels is looked at."""
    made = sitk.ImageRegistrationMethod()
    if mask is not None:
        made.SetMetricFixedMask(mask)
        made.SetMetricSamplingStrategy(made.RANDOM)
        made.SetMetricSamplingPercentage(SAMPLED, 1)
    if metric == "information":
        made.SetMetricAsMattesMutualInformation(32)
    else:
        made.SetMetricAsCorrelation()
    made.SetInterpolator(sitk.sitkLinear)
    made.SetShrinkFactorsPerLevel(LEVELS)
    made.SetSmoothingSigmasPerLevel(LEVELS)
    made.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return made


def own_start(fixed: sitk.Image, moving: sitk.Image, metric: str) -> sitk.Transform:
    """A turn and a shift by SimpleITK itself, from the middle of both images."""
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler2DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    rigid = method(metric)
    rigid.SetInitialTransform(start, inPlace=False)
    rigid.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200)
    rigid.SetOptimizerScalesFromPhysicalShift()
    return rigid.Execute(fixed, moving)


def own_similarity(fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image) -> sitk.Transform:
    """A turn, a shift and a scale by SimpleITK itself, from the centres of mass."""
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Similarity2DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    return improved(fixed, moving, start, "information", mask)


def improved(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform, metric: str, mask: sitk.Image
) -> sitk.Transform:
    """A linear map, improved."""
    made = method(metric, mask)
    made.SetInitialTransform(start, inPlace=False)
    made.SetOptimizerAsRegularStepGradientDescent(8.0, 1e-3, 200)
    made.SetOptimizerScalesFromPhysicalShift()
    return made.Execute(fixed, moving)


def as_transform(affine: Affine) -> sitk.Transform:
    """Ours as theirs."""
    made = sitk.AffineTransform(2)
    made.SetMatrix(affine.matrix[:, :2].ravel().tolist())
    made.SetTranslation(affine.matrix[:, 2].tolist())
    return made


def bspline(
    first: Channels, second: Channels, start: Affine | None, metric: str, mask: NDArray[np.bool_] | None = None
) -> Map:
    """The map from one section to the other, by SimpleITK.

    Args:
        first: of the H&E.
        second: of the IHC.
        start: a turn and a shift; None: found by SimpleITK.
        metric: `information` or `correlation`.
        mask: tissue on a slide of the first section, h x w; None: a tile.
    """
    fixed, moving = image_of(first), image_of(second)
    where = None
    if mask is None:
        before = own_start(fixed, moving, metric) if start is None else as_transform(start)
    else:
        where = sitk.GetImageFromArray(mask.astype(np.uint8))
        where.CopyInformation(fixed)
        before = (
            own_similarity(fixed, moving, where)
            if start is None
            else improved(fixed, moving, as_transform(start), metric, where)
        )
    mesh = [max(1, round(side / SPACING_PX)) for side in fixed.GetSize()]
    spline = sitk.BSplineTransformInitializer(fixed, mesh)
    made = method(metric, where)
    made.SetMovingInitialTransform(before)
    made.SetInitialTransform(spline, inPlace=True)
    made.SetOptimizerAsLBFGSB(numberOfIterations=60, maximumNumberOfFunctionEvaluations=120)
    made.Execute(fixed, moving)
    whole = sitk.CompositeTransform([before, spline])

    def moved(points: Floats) -> Floats:
        return np.array([whole.TransformPoint(point) for point in points.tolist()])

    return moved


def tile_ways() -> dict[str, Callable[[Channels, Channels], Map]]:
    """The ways of SimpleITK that are tried on tiles."""

    def way(start: bool, normalised: bool, metric: str) -> Callable[[Channels, Channels], Map]:
        def run(first: Channels, second: Channels) -> Map:
            affine = turn_and_shift(coarsest(first), coarsest(second))[0] if start else None
            sides = (side.normalised(0.75, 25) for side in (first, second)) if normalised else (first, second)
            return bspline(*sides, affine, metric)

        return run

    return {
        f"{'our' if start else 'own'} start, {'normalised' if normalised else 'as it is'}, {metric}": way(
            start, normalised, metric
        )
        for start, normalised, metric in (
            (False, False, "information"),
            (True, False, "information"),
            (True, True, "information"),
            (True, False, "correlation"),
            (True, True, "correlation"),
        )
    }


def tiles(root: Path, log: Path, every: int, only: str) -> None:
    """Both on tiles with a known displacement."""
    before = logged(log, "key")
    for pair in pairs_of(root, every):
        he, ihc = (to_tensor(image) for image in pair.load())
        truth, side_px = true_displacement(pair), he.shape[-1]
        first, second = (shared_channels(image, WORK_PX) for image in (he, ihc))
        ways: dict[str, Callable[[], Map]] = {"ours": lambda he=he, ihc=ihc: align_tile(he, ihc).field}
        for name, way in tile_ways().items():
            ways[name] = lambda way=way, first=first, second=second: way(first, second)
        for name, found_by in ways.items():
            if f"{pair.name} {name}" in before or (only not in name and name != "ours"):
                continue
            began = time.process_time()
            found = found_by()
            seconds = time.process_time() - began
            field = field_of(found, first.box, 12 * first.pitch)
            row = {"residual": missed(found, truth, side_px), "determinant": field.smallest_determinant(first.box)}
            note(log, {"key": f"{pair.name} {name}", "way": name, **row, "cpu_s": round(seconds, 2)})
    report(log)


def slides(folder: Path, log: Path, count: int, only: str) -> None:
    """Both on drawn slides, from the same affine map; SimpleITK on the whole slide at 2 µm per pixel."""
    before = logged(log, "key")
    for seed in seeds_in(folder)[:count]:
        pair = drawn(seed)
        he, ihc = pair.landmarks(100)
        ways: dict[str, Callable[[], tuple[Map, float] | None]] = {
            "ours": lambda seed=seed: by_blocks(folder, seed),
            "SimpleITK, our start, information": lambda seed=seed: by_spline(folder, seed, "information"),
            "SimpleITK, our start, correlation": lambda seed=seed: by_spline(folder, seed, "correlation"),
            "SimpleITK, own start, information": lambda seed=seed: by_spline(folder, seed, "information", own=True),
        }
        for name, way in ways.items():
            if f"{seed} {name}" in before or (name.startswith("SimpleITK") and only not in name):
                continue
            result = way()
            if result is None:
                continue
            error = np.hypot(*(result[0](he) - ihc).T) / pair.settings.scale
            row = {"residual": float(np.median(error)), "high": float(np.quantile(error, 0.9))}
            note(log, {"key": f"{seed} {name}", "way": name, **row, "cpu_s": round(result[1], 1)})
    report(log)


def by_blocks(folder: Path, seed: int) -> tuple[Map, float] | None:
    """Ours, and its seconds of CPU."""
    found, row = attempt(*files(folder, seed))
    return (found.transform, row["cpu_s"]) if found is not None else None


def by_spline(folder: Path, seed: int, metric: str, *, own: bool = False) -> tuple[Map, float] | None:
    """SimpleITK, from our affine map or by itself, and the seconds of CPU."""
    he, ihc = files(folder, seed)
    began = time.process_time()
    with open_slide(he) as first, open_slide(ihc) as second:
        overviews = look(first), look(second)
        lie = None if own else find_lie(*overviews)
        if lie is not None and not lie.is_found:
            return None
        sides = []
        for slide, mpp in ((first, SLIDE_MPP), (second, max(SLIDE_MPP, second.mpp))):
            channels = shared_channels(to_tensor(slide.whole(mpp)), 100_000)
            sides.append(Channels(channels.values, slide.scale(mpp) * slide.mpp))
    height, width = sides[0].values.shape[1:]
    tissue = Image.fromarray(overviews[0].tissue).resize((width, height), Image.Resampling.NEAREST)
    start = None if lie is None else lie.affine
    return bspline(sides[0], sides[1], start, metric, np.asarray(tissue)), time.process_time() - began


def report(log: Path) -> None:
    """Print what a log says, way by way."""
    rows: list[dict[str, Any]] = list(logged(log, "key").values())
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        words = f"{way}, {len(own)} pairs: {spread([row['residual'] for row in own])}"
        if "high" in own[0]:
            words += f"; 90th percentile of a pair {np.median([row['high'] for row in own]):.2f}"
        if "determinant" in own[0]:
            words += f"; folds {sum(row['determinant'] <= 0 for row in own)}"
        print(f"{words}; {np.mean([row['cpu_s'] for row in own]):.1f} s of CPU")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tiles", "slides"])
    parser.add_argument("root", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--every", type=int, default=9, help="take every n-th pair of tiles")
    parser.add_argument("--pairs", type=int, default=3, help="how many pairs of slides")
    parser.add_argument("--only", default="", help="take the ways of SimpleITK whose name holds this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    if given.what == "tiles":
        tiles(given.root, given.log, given.every, given.only)
    else:
        slides(given.root, given.log, given.pairs, given.only)


if __name__ == "__main__":
    main()
