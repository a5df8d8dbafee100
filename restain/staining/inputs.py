"""Finds the images and slides to stain in folders and tables, and the paths of their results."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from restain.errors import InputError, MissingError, OutputError
from restain.folders import IMAGE_SUFFIXES, files_below, is_image, read_text, separator
from restain.image import check_mpp
from restain.slides.identity import job_of
from restain.slides.kinds import SLIDE_SUFFIXES, is_ome_tiff, is_plain_image, is_slide
from restain.slides.sources import dicom_series


@dataclass(frozen=True)
class SlideJob:
    """One slide to stain."""

    source: Path
    target: Path
    mpp: float | None = None


@dataclass(frozen=True)
class ImageJob:
    """One image to stain."""

    source: Path
    target: Path


def find_images(inputs: Sequence[Path], out: Path, *, overwrite: bool = False) -> list[ImageJob]:
    """Pair each image with its result.

    A file goes to `out/NAME.png`; files in a folder keep their relative path, so that `sub/a.jpg` becomes
    `out/sub/a.png`. Hidden files, slides in folders, files in `out`, and maps of an earlier run are ignored.

    Args:
        inputs: image files and folders of them.
        out: a folder, made where it is missing.
        overwrite: whether `out` may contain files; those of the same name are replaced, others are kept.

    Raises:
        MissingError: an input does not exist.
        InputError: a folder without images, or two images with the same result.
        OutputError: `out` is a file or contains files, or an image would be replaced by a result.
    """
    if is_image(out) or out.is_file():
        raise OutputError(f"{out} is the name of a file; give a folder, in which each result has the name of its image")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out} is not empty; choose another folder, or allow overwriting")
    sources: dict[Path, Path] = {}
    for source, name in (found for given in inputs for found in _images(given, out)):
        target = out / name.with_suffix(".png")
        earlier = sources.setdefault(target, source)
        if earlier.resolve() != source.resolve():
            raise InputError(f"{earlier} and {source} would both become {target}; rename one or stain them separately")
    originals = {source.resolve() for source in sources.values()}
    if replaced := next((target for target in sources if target.resolve() in originals), None):
        raise OutputError(f"{replaced} is an input and would be replaced by a result; choose another folder")
    return [ImageJob(source, target) for target, source in sources.items()]


def _images(given: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Each image with its name below `out`."""
    if not given.exists():
        raise MissingError(f"{given} does not exist; an image or a folder of images is expected")
    if given.is_file():
        yield given, Path(given.name)
        return
    images = [path for path in files_below(given, out) if is_plain_image(path)]
    if not images:
        raise InputError(f"{given} holds no images; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    yield from ((path, path.relative_to(given)) for path in images)


def passed_over(inputs: Sequence[Path], is_wanted: Callable[[Path], bool]) -> int:
    """Number of images and slides in the given folders that are not of the wanted kind.

    Args:
        inputs: files and folders.
        is_wanted: such as `is_slide` or `is_plain_image`.
    """
    found = (path for given in inputs if given.is_dir() for path in files_below(given))
    return sum((is_image(path) or is_slide(path)) and not is_wanted(path) for path in found)


def find_slides(inputs: Sequence[Path], out: Path, ending: str = ".ome.tif") -> list[SlideJob]:
    """Pair each slide with its result, `out/NAME.ome.tif`, keeping subfolders.

    Args:
        inputs: slides, folders of them, and CSV files with a column `slide` and, where wanted, `mpp` and `name` (of the
            result, without its ending), separated by commas, semicolons or tabs. Paths in a CSV start from its folder.
        out: folder of the results.
        ending: of their names, which says their format.

    Raises:
        MissingError: an input does not exist.
        InputError: a folder without slides, a CSV without the column or with a wrong line, two slides with the same
            name, or one with two resolutions.
    """
    jobs: dict[Path, SlideJob] = {}
    for job in (_ending_in(ending, job) for given in inputs for job in _found(given, out)):
        earlier = jobs.setdefault(job.target, job)
        if earlier.source.resolve() != job.source.resolve():
            raise InputError(
                f"{earlier.source} and {job.source} would both become {job.target}; give them names in a CSV "
                "(columns slide, name)"
            )
        if earlier.mpp != job.mpp:
            raise InputError(f"{job.source} is given twice, with mpp {earlier.mpp} and with {job.mpp}; give it once")
    return list(jobs.values())


def _ending_in(ending: str, job: SlideJob) -> SlideJob:
    return replace(job, target=job.target.with_name(f"{job.target.name.removesuffix('.ome.tif')}{ending}"))


def _found(given: Path, out: Path) -> Iterator[SlideJob]:
    if not given.exists():
        raise MissingError(f"{given} does not exist; a slide, a folder of slides or a CSV is expected")
    if given.suffix.lower() == ".csv":
        yield from _listed(given, out)
    elif given.is_file():
        yield SlideJob(given, out / _result_name(given.name))
    else:
        if out.resolve() == given.resolve():
            raise InputError(f"{out} is the folder of the slides; choose another one for the results")
        slides = list(_slides_below(given, out))
        if not slides:
            endings = ", ".join(sorted(SLIDE_SUFFIXES))
            raise InputError(f"{given} holds no slides; expected files that end in {endings}, or TIFFs in tiles")
        for path in slides:
            name = path.relative_to(given)
            yield SlideJob(path, out / name.with_name(_result_name(name.name)))


def _slides_below(folder: Path, out: Path) -> Iterator[Path]:
    """Slides in a folder, in order, except those in `out`, results of restain, and parts of other slides."""
    series: set[tuple[Path, str]] = set()
    for path in filter(is_slide, files_below(folder, out)):
        if is_ome_tiff(path) and job_of(path):
            continue
        if path.suffix.lower() == ".dcm" and (name := dicom_series(path)):
            if (path.parent, name) in series:
                continue
            series.add((path.parent, name))
        yield path


def _listed(table: Path, out: Path) -> Iterator[SlideJob]:
    text = read_text(table, "a CSV of slides")
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator(text), skipinitialspace=True)
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{table} cannot be read as a CSV: {error}") from error
    if not rows or "slide" not in rows[0][1]:
        raise InputError(f"{table} needs a first line with a column 'slide' (and, where wanted, mpp and name)")
    for line, row in rows:
        if not (row["slide"] or "").strip():
            raise InputError(f"{table}, line {line}: no slide; name its file in the column 'slide', or remove the line")
        if None in row:
            raise InputError(
                f"{table}, line {line} has more values than the first line has columns; "
                'put a name with a separator in it into quotes ("...")'
            )
        source = table.parent / row["slide"].strip()
        try:
            mpp = float(row["mpp"]) if (row.get("mpp") or "").strip() else None
        except ValueError as error:
            raise InputError(f"{table}, line {line}: mpp {row['mpp']!r} is not a number") from error
        if mpp is not None:
            check_mpp(mpp, f"{table}, line {line}: mpp")
        named = (row.get("name") or "").strip()
        if named and not _is_inside(named):
            raise InputError(f"{table}, line {line}: the name {named!r} leads out of the folder of results")
        yield SlideJob(source, out / (f"{_without_ending(named)}.ome.tif" if named else _result_name(source.name)), mpp)


def _result_name(name: str) -> str:
    """The result of a file of this name."""
    bare = _without_ending(name)
    return f"{Path(name).stem if bare == name else bare}.ome.tif"


def _without_ending(name: str) -> str:
    """A name without the ending of an OME-TIFF; other dots belong to it, as in S24.101."""
    ending = next((suffix for suffix in (".ome.tif", ".ome.tiff") if name.lower().endswith(suffix)), "")
    return name.removesuffix(name[len(name) - len(ending) :]) if ending else name


def _is_inside(name: str) -> bool:
    """Whether a name, which may contain folders, stays inside its folder."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def shard(jobs: Sequence[SlideJob], part: str) -> list[SlideJob]:
    """Every n-th slide, for `i/n`: the shares 0/n to n-1/n are disjoint and complete.

    Raises:
        InputError: not of this form.
    """
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"shard {part}: expected i/n with i from 0 to n - 1, such as 0/8")
    return list(jobs[int(index) :: int(count)])
