"""Which slides to stain: found in folders and tables, shared out over machines."""

import csv
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from restain.errors import InputError, MissingError
from restain.folders import files_below, is_image
from restain.slides.identity import job_of
from restain.slides.reader import SANE_MPP, SLIDE_SUFFIXES
from restain.slides.sources import dicom_series

_BIG_TIFF, _TILE_WIDTH = 43, 322


@dataclass(frozen=True)
class SlideJob:
    """One slide to stain."""

    source: Path
    target: Path
    mpp: float | None = None


def is_slide(path: Path) -> bool:
    """Whether a file is a slide by its ending, or a TIFF in tiles; ordinary images are stored in strips."""
    name = path.name.lower()
    return any(name.endswith(suffix) for suffix in SLIDE_SUFFIXES) or (
        name.endswith((".tif", ".tiff")) and _is_in_tiles(path)
    )


def _is_in_tiles(path: Path) -> bool:
    """Whether the first directory of a TIFF or BigTIFF gives a width of tiles."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            order = {b"II": "<", b"MM": ">"}[head[:2]]
            (version,) = struct.unpack(f"{order}H", head[2:4])
            place, count, entry_bytes = ("Q", "Q", 20) if version == _BIG_TIFF else ("I", "H", 12)
            file.seek(*struct.unpack_from(f"{order}{place}", head, 8 if version == _BIG_TIFF else 4))
            (entries,) = struct.unpack(f"{order}{count}", file.read(struct.calcsize(count)))
            tags = (struct.unpack(f"{order}H", file.read(entry_bytes)[:2])[0] for _ in range(entries))
            return _TILE_WIDTH in tags
    except (OSError, KeyError, struct.error):
        return False


def holds_slides(given: Path) -> bool:
    """Whether an input names slides: it is one, a folder with some, or a CSV."""
    if given.is_dir():
        return any(map(is_slide, files_below(given)))
    return is_slide(given) or given.suffix.lower() == ".csv"


def images_between(inputs: Sequence[Path]) -> int:
    """How many plain images lie between slides, in the folders given; maps of trust and tissue are none."""
    found = (path for given in inputs if given.is_dir() for path in files_below(given))
    return sum(is_image(path) and not is_slide(path) for path in found)


def find_slides(inputs: Sequence[Path], out: Path) -> list[SlideJob]:
    """Pair each slide with its result, `out/NAME.ome.tif`; subfolders are kept.

    Args:
        inputs: slides, folders of them, and CSV files with a column `slide` and, where wanted, `mpp` and `name` (of the
            result, without its ending). Paths in a CSV start from its folder.
        out: folder of the results.

    Raises:
        MissingError: an input does not exist.
        InputError: a folder without slides, a CSV without the column or with a wrong line, or two slides with the same
            name.
    """
    jobs: dict[Path, SlideJob] = {}
    for job in (job for given in inputs for job in _found(given, out)):
        earlier = jobs.setdefault(job.target, job)
        if earlier.source.resolve() != job.source.resolve():
            raise InputError(
                f"{earlier.source} and {job.source} would both become {job.target}; give them names in a CSV "
                "(columns slide, name)"
            )
    return list(jobs.values())


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
    """Slides in a folder, in order; not what lies in `out`, was stained by us, or is a part of another."""
    series: set[tuple[Path, str]] = set()
    for path in filter(is_slide, files_below(folder, out)):
        if path.name.lower().endswith((".ome.tif", ".ome.tiff")) and job_of(path):
            continue
        if path.suffix.lower() == ".dcm" and (name := dicom_series(path)):
            if (path.parent, name) in series:
                continue
            series.add((path.parent, name))
        yield path


def _listed(table: Path, out: Path) -> Iterator[SlideJob]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as a CSV: {error}") from error
    if not rows or "slide" not in rows[0][1]:
        raise InputError(f"{table} needs a first line with a column 'slide' (and, where wanted, mpp and name)")
    low, high = SANE_MPP
    for line, row in rows:
        if not (row["slide"] or "").strip():
            raise InputError(f"{table}, line {line}: no slide; name its file in the column 'slide', or remove the line")
        source = table.parent / row["slide"]
        try:
            mpp = float(row["mpp"]) if row.get("mpp") else None
        except ValueError as error:
            raise InputError(f"{table}, line {line}: mpp {row['mpp']!r} is not a number") from error
        if mpp is not None and not low <= mpp <= high:
            raise InputError(f"{table}, line {line}: mpp {mpp:g} is out of range; expected {low} to {high}")
        yield SlideJob(source, out / _result_name(row.get("name") or source.name), mpp)


def _result_name(name: str) -> str:
    ending = next((suffix for suffix in (".ome.tif", ".ome.tiff") if name.lower().endswith(suffix)), None)
    return f"{name[: -len(ending)] if ending else Path(name).stem}.ome.tif"


def shard(jobs: Sequence[SlideJob], part: str) -> list[SlideJob]:
    """Every n-th slide, for `i/n`: the shares 0/n to n-1/n are disjoint and together all.

    Raises:
        InputError: not of this form.
    """
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"--shard {part}: expected i/n with i from 0 to n - 1, such as 0/8")
    return list(jobs[int(index) :: int(count)])
