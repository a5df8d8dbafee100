"""Weights that come with restain, found by name; any other checkpoint is found by its path.

Beside `NAME.safetensors` lie its card, `NAME.md`, and a picture of what it does on tissue that it has never seen,
`NAME.jpg`.
"""

from dataclasses import dataclass
from pathlib import Path

from restain.errors import MissingError

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class PackagedModel:
    """A model of the package: its files."""

    weights: Path
    """The checkpoint."""

    @property
    def card(self) -> Path:
        """What it was made of and how good it is, Markdown."""
        return self.weights.with_suffix(".md")

    @property
    def picture(self) -> Path:
        """Held-out tiles: H&E, virtual stain, truth."""
        return self.weights.with_suffix(".jpg")


def packaged_models() -> dict[str, PackagedModel]:
    """The models of the package, by name in alphabetical order."""
    return {path.stem: PackagedModel(path) for path in sorted(_FOLDER.glob("*.safetensors"))}


def find_model(name: Path | str) -> Path:
    """The checkpoint that a user means.

    Args:
        name: of a model of the package, such as `colon-panck`, or the path of a checkpoint.

    Raises:
        MissingError: a word without suffix and folder is neither; names the models of the package.
    """
    path, known = Path(name).expanduser(), packaged_models()
    if str(name) in known:
        return known[str(name)].weights
    if path.suffix or path.name != str(name) or path.exists():
        return path
    raise MissingError(
        f"no model is called {str(name)!r}; the package has {' and '.join(known) or 'none'}, "
        "and any other is given by its path, ending in .safetensors"
    )
