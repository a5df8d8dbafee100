"""Identifies results by slide, model and settings."""

import hashlib
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from restain.errors import InputError
from restain.folders import spread_blocks
from restain.slides.ngff import is_ngff, job_of_ngff


def content_key(path: Path) -> str:
    """A hash of a slide's contents: its length and 64 blocks spread over it, which is fast for gigabytes.

    The data folder of an MRXS is included.

    Raises:
        InputError: a file cannot be read.
    """
    files = [path]
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        files += sorted(file for file in path.with_suffix("").iterdir() if file.is_file())
    digest = hashlib.sha256()
    try:
        for file in files:
            length = file.stat().st_size
            digest.update(f"{file.name if file != path else ''} {length};".encode())
            for block in spread_blocks(file, 64, 2**16):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def job_key(parts: Mapping[str, Any]) -> str:
    """A hash of everything that the pixels depend on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def job_of(path: Path) -> str | None:
    """The job recorded in a finished slide, or None."""
    import tifffile

    if is_ngff(path):
        return job_of_ngff(path)
    if not path.is_file():  # a pipe or device might never end
        return None
    try:
        with tifffile.TiffFile(path) as file:
            xml = file.ome_metadata
        entries = ET.fromstring(xml).iter() if xml else ()
    except Exception:  # any exception on a damaged or foreign file means that it is not a result
        return None
    return next((entry.text for entry in entries if entry.get("K") == "job"), None)
