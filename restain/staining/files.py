"""Decides which images are stained and where each result goes: the same name as PNG, subfolders kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from restain.errors import InputError, MissingError, OutputError
from restain.folders import IMAGE_SUFFIXES, files_below, is_image


@dataclass(frozen=True)
class Job:
    """One image to stain."""

    source: Path
    target: Path


def find_jobs(inputs: Sequence[Path], out: Path, *, overwrite: bool = False) -> list[Job]:
    """Pair each image with its result.

    A file goes to `out/NAME.png`; what is found below a folder keeps its path from there on, `sub/a.jpg` becoming
    `out/sub/a.png`. Hidden files, what lies in `out`, and maps that an earlier run wrote are passed over.

    Args:
        inputs: image files and folders of them.
        out: a folder, made where it is missing.
        overwrite: whether `out` may already hold files; those of the same name are replaced, others stay.

    Raises:
        MissingError: an input does not exist.
        InputError: a folder without images, or two images that would get the same name.
        OutputError: `out` is a file or holds files already, or an image would be replaced by a result.
    """
    if is_image(out) or out.is_file():
        raise OutputError(f"{out} names a file; expected a folder, in which each result gets the name of its image")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out} already holds files; choose another folder, or allow overwriting (--overwrite)")
    sources: dict[Path, Path] = {}
    for source, name in (found for given in inputs for found in _images(given, out)):
        target = out / name.with_suffix(".png")
        earlier = sources.setdefault(target, source)
        if earlier.resolve() != source.resolve():
            raise InputError(f"{earlier} and {source} would both become {target}; rename one or stain them separately")
    originals = {source.resolve() for source in sources.values()}
    if replaced := next((target for target in sources if target.resolve() in originals), None):
        raise OutputError(f"{replaced} is an image to stain and would be replaced by a result; choose another folder")
    return [Job(source, target) for target, source in sources.items()]


def _images(given: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Each image with its name below `out`."""
    if not given.exists():
        raise MissingError(f"{given} does not exist; an image or a folder of images is expected")
    if given.is_file():
        yield given, Path(given.name)
        return
    images = [path for path in files_below(given, out) if is_image(path)]
    if not images:
        raise InputError(f"{given} holds no images; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    yield from ((path, path.relative_to(given)) for path in images)
