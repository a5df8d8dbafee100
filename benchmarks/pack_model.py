"""Make a finished run one of the models that come with restain: half-size weights, where they come from, a picture.

    python benchmarks/pack_model.py runs/colon colon-panck --data colon \
        --held-out colon/valA --truth colon/valB_aligned \
        --attribution "..." --licence "..." --command "restain train ..." --revision 1234abc

The card, `restain/models/NAME.md`, is written by hand from the figures that are printed at the end.
"""

import argparse
import hashlib
import tempfile
import tomllib
from pathlib import Path

import torch
from PIL import Image

from restain.checkpoint import load_checkpoint, load_generator, save_checkpoint
from restain.data.cases import cases_by_pattern
from restain.folders import list_images
from restain.metrics.evaluation import evaluate
from restain.staining.images import stain_files

SHOWN = 6
"""Tiles in the picture."""
SHOWN_PX = 256


def data_sha256(*folders: Path) -> str:
    """SHA-256 of the images of some folders: each folder's name, each file's name and bytes, in order."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in list_images(folder):
            digest.update(f"{folder.name}/{path.name} {path.stat().st_size};".encode() + path.read_bytes())
    return digest.hexdigest()


def half(network: torch.nn.Module) -> torch.nn.Module:
    """Round the convolutions' weights to float16; biases and norms, which are small and few, stay float32."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.half()
    return network


def picture(path: Path, rows: list[Path], names: list[str]) -> None:
    """H&E, virtual stain and truth of some tiles, one row per kind."""
    sheet = Image.new("RGB", (len(names) * (SHOWN_PX + 4) - 4, len(rows) * (SHOWN_PX + 4) - 4), "white")
    for down, folder in enumerate(rows):
        by_stem = {image.stem: image for image in list_images(folder)}
        for across, name in enumerate(names):
            tile = Image.open(by_stem[name]).convert("RGB").resize((SHOWN_PX, SHOWN_PX), Image.Resampling.BOX)
            sheet.paste(tile, (across * (SHOWN_PX + 4), down * (SHOWN_PX + 4)))
    sheet.save(path, quality=80, optimize=True)


def main() -> None:
    """Pack, stain the held-out side with what was packed, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True, help="the folder with trainA and trainB")
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--cases", help="regular expression for the case in a tile's name")
    parser.add_argument("--models", type=Path, default=Path(__file__).resolve().parents[1] / "restain/models")
    for key in ("attribution", "licence", "command", "revision"):
        parser.add_argument(f"--{key}", required=True)
    given = parser.parse_args()

    network, info = load_checkpoint(given.run / "model.safetensors")
    recipe = tomllib.loads((given.run / "recipe.toml").read_text(encoding="utf-8"))
    weights = given.models / f"{given.name}.safetensors"
    extra = {
        "name": given.name,
        "licence": given.licence,
        "attribution": given.attribution,
        "command": given.command,
        "revision": given.revision,
        "seed": recipe["seed"],
        "steps": info.extra["steps"],
        "data_sha256": data_sha256(given.data / "trainA", given.data / "trainB"),
    }
    save_checkpoint(weights, half(network), method=info.method, stain=info.stain, mpp=info.mpp, extra=extra)
    print(f"{weights}, {weights.stat().st_size / 1e6:.2f} MB")

    with tempfile.TemporaryDirectory() as folder:
        virtual = Path(folder) / "virtual"
        stain_files(load_generator(weights), [given.held_out], virtual)
        cases = cases_by_pattern(given.cases) if given.cases else None
        for label, shown in (("virtual", virtual), ("the H&E as it is", given.held_out)):
            found = evaluate(shown, given.truth, he=given.held_out, cases=cases)
            print(f"\n{label}\n\n| figure, N = {len(found.names)} | value | 95 % interval |\n|---|---|---|")
            for figure in found.figures.values():
                unit = f", {figure.unit}" if figure.unit else ""
                print(f"| {figure.label}{unit} | {figure.value:.3f} | {figure.low:.3f} to {figure.high:.3f} |")
        stems = [image.stem for image in list_images(virtual)]
        names = stems[:: max(1, len(stems) // SHOWN)][:SHOWN]
        picture(weights.with_suffix(".jpg"), [given.held_out, virtual, given.truth], names)


if __name__ == "__main__":
    main()
