"""What a run leaves, by what must not differ from run to run: weights, pixels, figures, or else bytes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import contents


def meaning(folder: Path) -> dict[str, Any]:
    """Every file below a folder by what must not differ from run to run: weights, pixels, figures, or else bytes."""
    found: dict[str, Any] = {}
    for name, digest in contents(folder).items():
        path = folder / name
        if name.startswith(("pairs/",)) or "tensorboard" in path.parts or path.name in (".lock", "state.pt"):
            continue
        kind = next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), None)
        found[name] = kind(path) if kind else digest
    return found


def _weights(path: Path) -> object:
    from restain.checkpoint import read_info
    from restain.errors import RestainError

    try:
        info = read_info(path)
    except RestainError:  # statistics
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return info.sha256, json.dumps(info.extra, sort_keys=True)


def _pixels(path: Path) -> object:
    import numpy as np
    import openslide

    with openslide.OpenSlide(path) as slide:
        levels = [slide.read_region((0, 0), n, size) for n, size in enumerate(slide.level_dimensions)]
        return [hashlib.sha256(np.asarray(level).tobytes()).hexdigest() for level in levels]


def _figures(path: Path) -> object:
    """JSON without what depends on the clock and the load."""

    def timeless(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: timeless(value) for key, value in node.items() if not _is_of_time(key)}
        return [timeless(value) for value in node] if isinstance(node, list) else node

    return timeless(json.loads(path.read_text(encoding="utf-8")))


def _is_of_time(key: str) -> bool:
    return any(word in key for word in ("second", "time", "date", "peak", "created", "bytes", "hours", "minutes"))


def _there(path: Path) -> object:
    return path.stat().st_size > 0


_KINDS: dict[str, Callable[[Path], object]] = {
    ".safetensors": _weights,
    ".ome.tif": _pixels,
    ".json": _figures,
    "table.md": _there,  # has times in it; table.json has the figures
    ".html": _there,
}


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs in two folders."""
    names = [f"only in one of the runs: {name}" for name in expected.keys() ^ found.keys()]
    return names + [f"{name} differs" for name in expected.keys() & found.keys() if expected[name] != found[name]]
