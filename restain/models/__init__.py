"""Weights that come with restain, found by name; on the hub, by address; any other checkpoint is found by its path.

Each `NAME.safetensors` comes with its card, `NAME.md`, and a picture of results on held-out tissue, `NAME.jpg`.
"""

from dataclasses import dataclass
from pathlib import Path

from restain.errors import MissingError
from restain.models.hub import Address, cached_name, fetch

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class PackagedModel:
    """A model of the package: its files."""

    weights: Path
    """The checkpoint."""

    @property
    def card(self) -> Path:
        """Training data, accuracy and limits, in Markdown."""
        return self.weights.with_suffix(".md")

    @property
    def picture(self) -> Path:
        """Held-out tiles: H&E, virtual stain, truth."""
        return self.weights.with_suffix(".jpg")


def packaged_models() -> dict[str, PackagedModel]:
    """The models of the package, by name in alphabetical order."""
    return {path.stem: PackagedModel(path) for path in sorted(_FOLDER.glob("*.safetensors"))}


def find_model(name: Path | str) -> Path:
    """Find the checkpoint that a user names.

    Args:
        name: of a model of the package, such as `colon-panck`; an address on the hub, `hf://owner/name[@revision]`,
            which is fetched; or the path of a checkpoint.

    Raises:
        MissingError: a bare name is neither a model of the package nor a file; the message lists the models. Or as in
            `fetch`.
        InputError: as in `fetch`, or no address.
    """
    if address := Address.read(name):
        return fetch(address)
    path, known = Path(name).expanduser(), packaged_models()
    if str(name) in known:
        return known[str(name)].weights
    if path.suffix or path.name != str(name) or path.exists():
        return path
    raise MissingError(
        f"there is no model {str(name)!r}; restain comes with {' and '.join(known) or 'none'}, "
        "and other checkpoints are given by path, ending in .safetensors, or as hf://owner/name"
    )


def called(weights: Path) -> str:
    """A short name for what is made by a model: its own, or its folder's where the file is called as all are."""
    if name := cached_name(weights):
        return name
    return weights.resolve().parent.name if weights.stem == "model" else weights.stem
