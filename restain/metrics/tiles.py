"""The tiles to measure: virtual images, their real partners and their H&E, paired by name and read once."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from restain.errors import InputError
from restain.folders import pair_by_name, partners, trust_map
from restain.image import image_size, load_image, to_tensor
from restain.stains import to_unit

BATCH_PX = 2**21
"""Pixels per batch, which limits memory to about half a gigabyte; a larger image is a batch of its own."""

Partner = Literal["real", "he"]
"""What a virtual image is compared with: the real IHC, or its H&E."""

PARTNERS: dict[Partner, str] = {"real": "real images", "he": "H&E images"}
"""Their names in protocols."""


@dataclass(frozen=True)
class TilePair:
    """A virtual image and its real partner."""

    name: str
    virtual: Path
    real: Path
    size: tuple[int, int]
    """Width and height of both, in px."""
    he: Path | None = None
    """The H&E that the virtual image was made from, where it is known."""

    @property
    def trust(self) -> Path:
        """Path of the trust map of the virtual image, which may not exist."""
        return trust_map(self.virtual)


@dataclass(frozen=True)
class Batch:
    """Some tiles of one size, read: N x 3 x H x W in [0, 1] each."""

    tiles: Sequence[TilePair]
    virtual: Tensor
    real: Tensor
    he: Tensor | None


def pair_images(virtual: Path, real: Path, he: Path | None = None) -> list[TilePair]:
    """Find the pairs of two folders by stem, in order, and check their headers.

    Args:
        virtual: folder of virtual images.
        real: folder of real images; each has the stem and the size of its partner, the format may differ.
        he: folder of the H&E images, likewise; it may contain more.

    Raises:
        MissingError: a folder does not exist.
        InputError: a folder is empty, a partner is missing, or two partners differ in size.
    """
    pairs = pair_by_name(virtual, real)
    he_images = partners({name: path for name, (path, _) in pairs.items()}, he) if he else {}
    return [_pair(name, *paths, he_images.get(name)) for name, paths in pairs.items()]


def read_batches(tiles: Sequence[TilePair]) -> Iterator[Batch]:
    """Read consecutive tiles of equal size in batches of up to `BATCH_PX` pixels; each image is decoded once."""
    for batch in _batches(tiles):
        he = [tile.he for tile in batch if tile.he]
        virtual, real = ([getattr(tile, side) for tile in batch] for side in ("virtual", "real"))
        yield Batch(batch, _load(virtual), _load(real), _load(he) if he else None)


def tile_protocol(tiles: Sequence[TilePair], partner: Partner) -> dict[str, str | float]:
    """The tiles' part of a protocol: size, format, number, and the images that they are compared with."""
    sizes = sorted({tile.size for tile in tiles})
    partners = [tile.real if partner == "real" or tile.he is None else tile.he for tile in tiles]
    sides = [tile.virtual for tile in tiles], partners
    formats = ["/".join(sorted({path.suffix.lower()[1:] for path in paths})) for paths in sides]
    return {
        "size": f"{times(sizes[0])} px" if len(sizes) == 1 else f"{times(sizes[0])} to {times(sizes[-1])} px",
        "resize": "none",
        "format": " against ".join(formats),
        "tiles": len(tiles),
        PARTNERS[partner]: _digest([tile.name for tile in tiles], partners),
    }


def times(size: tuple[int, int]) -> str:
    """Width and height as `512×512`."""
    return f"{size[0]}×{size[1]}"


def _pair(name: str, virtual: Path, real: Path, he: Path | None) -> TilePair:
    size = image_size(virtual)
    for partner in filter(None, (real, he)):
        partner_size = image_size(partner)
        if size != partner_size:
            raise InputError(
                f"{virtual} has {times(size)} px but {partner} has {times(partner_size)} px; partners must have equal"
                " size, so resize or crop one of them"
            )
    return TilePair(name, virtual, real, size, he)


def _batches(tiles: Sequence[TilePair]) -> Iterator[list[TilePair]]:
    batch: list[TilePair] = []
    for tile in tiles:
        full = (len(batch) + 1) * math.prod(tile.size) > BATCH_PX
        if batch and (full or tile.size != batch[0].size):
            yield batch
            batch = []
        batch.append(tile)
    yield batch


def _digest(names: Sequence[str], paths: Sequence[Path]) -> str:
    """Hash of the names and contents of files, twelve characters."""
    digest = hashlib.blake2b(digest_size=6)
    for name, path in zip(names, paths, strict=True):
        with path.open("rb") as file:
            digest.update(f"{len(name)} {name}".encode() + hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _load(paths: Sequence[Path]) -> Tensor:
    return to_unit(to_tensor(np.stack([load_image(path) for path in paths])))
