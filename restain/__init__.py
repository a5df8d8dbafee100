"""Virtual immunohistochemistry staining: train, stain, measure.

The public names are imported on first use, so that `import restain` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restain import quantify as quantify
    from restain.checkpoint import load_generator as load_generator
    from restain.metrics import evaluate as evaluate
    from restain.staining.images import stain as stain
    from restain.staining.slide import stain_slide as stain_slide
    from restain.training import train as train
    from restain.viewer import show as show

_HOMES = {
    "evaluate": "restain.metrics",
    "load_generator": "restain.checkpoint",
    "show": "restain.viewer",
    "stain": "restain.staining.images",
    "stain_slide": "restain.staining.slide",
    "train": "restain.training",
}

__all__ = ["__version__", "evaluate", "load_generator", "quantify", "show", "stain", "stain_slide", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name from the module where it lives."""
    if name == "__version__":
        from importlib.metadata import version

        return version("restain")
    if name == "quantify":  # a package, with a function for each thing to measure
        return import_module("restain.quantify")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'restain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
