"""What `mutations` damages: files of every kind that the commands read, whole, each with the commands that read it."""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mutators
import numpy as np
import processes
import tifffile
import torch
from PIL import Image
from processes import contents, run, start

Words = Sequence[object]
MODEL, SLIDE = "model.safetensors", "slide.ome.tif"
STAIN_SLIDE = ("--model", MODEL, "--model-mpp", 0.5, "--tile-px", 256, "--device", "cpu", "--out", "r.ome.tif")
CUT = ("pairs", "cut", "he.ome.tif", "ihc.ome.tif", "--out", "cut", "--size", 128, "--validation", 0)


@dataclass
class Case:
    """A file to damage, how, and what reads it."""

    seed: Path
    """A folder; the whole of it is copied for each try."""
    name: str
    """Of the file in it that is damaged."""
    ways: tuple[mutators.Mutator, ...]
    commands: tuple[Words, ...]
    """One is drawn."""
    results: tuple[str, ...] = ()
    """Files that must be those of the undamaged one, where the command ends well."""
    expected: dict[str, str] = field(default_factory=dict)


class Seeds:
    """A folder with undamaged inputs, and folders made from it."""

    def __init__(self, root: Path) -> None:
        """Make the inputs: drawn pairs, two drawn slides, a generator of one step."""
        self.root, self.base = root / "seeds", root / "base"
        self.base.mkdir()
        run(("phantom", "pairs", "--pairs", 3, "--size", 96), self.base)
        slides = ("--slide", "he.ome.tif", "--neighbour", "ihc.ome.tif", "--size", 1400, "--coverage", 0.6)
        run(("phantom", *slides), self.base)
        run(("train", "cut-tiny", "--data", "pairs", "--out", "trained", "--steps", 1), self.base)
        shutil.copy(self.base / "trained" / "model.safetensors", self.base / MODEL)
        run(("phantom", "--slide", SLIDE, "--size", 400, "--coverage", 0.6), self.base)
        with Image.open(next((self.base / "pairs").rglob("trainA/*.png"))) as opened:
            self.tile = opened.convert("RGB")

    def folder(self, name: str, *files: str) -> Path:
        """A folder with some of the inputs."""
        made = self.root / name
        made.mkdir(parents=True)
        for file in files:
            source = self.base / file
            (shutil.copytree if source.is_dir() else shutil.copy)(source, made / file)
        return made


def images(seeds: Seeds) -> list[Case]:
    """Tiles of every format."""
    found = []
    ways: dict[str, tuple[mutators.Mutator, ...]] = {
        "a.png": (mutators.png_chunks, mutators.bytes_of_any),
        "a.jpg": (mutators.bytes_of_any,),
        "a.tif": (mutators.tiff_tags, mutators.bytes_of_any),
        "a.bmp": (mutators.bytes_of_any,),
        "a.webp": (mutators.bytes_of_any,),
    }
    for name, mutate in ways.items():
        made = seeds.folder(f"image {name}", MODEL)
        for side in ("v", "w"):
            (made / side).mkdir()
            seeds.tile.save(made / side / name)
            seeds.tile.rotate(90).save(made / side / f"b{name[1:]}")
        commands: tuple[Words, ...] = (
            ("stain", "v", "--model", MODEL, "--out", "o", "--device", "cpu"),
            ("evaluate", "--virtual", "v", "--real", "w", "--out", "o", "--device", "cpu"),
            ("quantify", "v", "--out", "o", "--marker", "membrane", "--mpp", 0.5),
        )
        found.append(Case(made, f"v/{name}", mutate, commands))
    return found


APERIO = "Aperio Image Library v10.0.50\r\n400x400 [0,0 400x400] (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"


def readers_of(name: str) -> tuple[Words, ...]:
    """The commands that read a slide."""
    return (
        ("stain-slides", name, *STAIN_SLIDE, "--norm", "tile"),
        ("stain-slides", ".", *STAIN_SLIDE[:-1], "o", "--norm", "tile"),
        ("statistics", name, "--model", MODEL, "--model-mpp", 0.5, "--out", "o.safetensors", "--device", "cpu"),
        ("quantify", name, "--out", "o", "--marker", "membrane"),
    )


def slides(seeds: Seeds) -> list[Case]:
    """Slides as SVS, TIFF and BigTIFF, and one of restain's."""
    large = np.asarray(seeds.tile.resize((400, 400)))
    ways = (mutators.tiff_tags, mutators.tiff_tags, mutators.bytes_of_any)
    found = []
    for name in ("s.svs", "s.tif", "big.tif"):
        made = seeds.folder(f"slide {name}", MODEL)
        with tifffile.TiffWriter(made / name, bigtiff=name == "big.tif") as file:
            file.write(
                large, photometric="rgb", tile=(256, 256), compression="jpeg", metadata=None,
                description=APERIO if name == "s.svs" else None, resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER",
            )  # fmt: skip
        found.append(Case(made, name, ways, readers_of(name)))
    return [*found, Case(seeds.folder("slide ome", MODEL, SLIDE), SLIDE, ways, readers_of(SLIDE))]


def ome_xml(seeds: Seeds) -> list[Case]:
    """What an OME-TIFF says of itself."""
    made = seeds.folder("ome-xml", MODEL, SLIDE)
    return [Case(made, SLIDE, (mutators.ome_xml,), readers_of(SLIDE))]


def checkpoints(seeds: Seeds) -> list[Case]:
    """A generator."""
    made = seeds.folder("checkpoint", MODEL, "pairs")
    seeds.tile.save(made / "i.png")
    commands = (
        ("info", MODEL),
        ("stain", "i.png", "--model", MODEL, "--out", "o", "--device", "cpu", "--trust"),
        ("train", "cut-tiny", "--data", "pairs", "--out", "run", "--steps", 1, "--init", MODEL),
    )
    ways = (mutators.safetensors_header, mutators.safetensors_header, mutators.bytes_of_any)
    return [Case(made, MODEL, ways, commands)]


def weights(seeds: Seeds) -> list[Case]:
    """A file of PyTorch's, with code in it."""
    made = seeds.folder("pth")
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)).state_dict(), made / "g.pth")
    commands = (("import", "g.pth", "--out", "o.safetensors"), ("info", "g.pth"))
    return [
        Case(made, "g.pth", (mutators.pickle_with_code, mutators.pickle_with_code, mutators.bytes_of_any), commands)
    ]


def recipes(seeds: Seeds) -> list[Case]:
    """Recipes."""
    found = []
    for recipe in ("cut-tiny", "cyclegan-tiny", "classify-tiny"):
        made = seeds.folder(f"recipe {recipe}", "pairs")
        run(("recipes", "copy", recipe, "r.toml"), made)
        words = ("train", "r.toml", "--data", "pairs", "--out", "run", "--steps", 1)
        found.append(Case(made, "r.toml", (mutators.toml_values,), (words,)))
    return found


def geojson(seeds: Seeds) -> list[Case]:
    """Drawn polygons."""
    made = seeds.folder("geojson", MODEL, SLIDE)
    seeds.tile.save(made / "i.png")
    ring = [[[50, 50], [400, 60], [420, 400], [60, 380], [50, 50]]]
    feature = {"type": "Feature", "properties": {"name": "a"}, "geometry": {"type": "Polygon", "coordinates": ring}}
    (made / "r.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature, feature]}))
    commands = (
        ("stain-slides", SLIDE, *STAIN_SLIDE, "--norm", "tile", "--rois", "r.geojson"),
        ("quantify", "i.png", "--out", "o", "--marker", "membrane", "--mpp", 0.5, "--regions", "r.geojson"),
    )
    return [Case(made, "r.geojson", (mutators.json_values, mutators.bytes_of_any), commands)]


def tables(seeds: Seeds) -> list[Case]:
    """CSVs of slides, of pairs of tiles, of pairs of slides and of landmarks."""
    one = seeds.folder("csv slides", MODEL, SLIDE)
    (one / "t.csv").write_text(f"slide,mpp,name\n{SLIDE},0.5,one\n{SLIDE},,two\n")
    staining = (("stain-slides", "t.csv", *STAIN_SLIDE[:-1], "o", "--norm", "tile"),)
    two = seeds.folder("csv pairs", "pairs")
    rows = []
    for n, path in enumerate(sorted((two / "pairs").rglob("trainA/*.png"))):
        he = str(path.relative_to(two))
        rows.append(f"{he},{he.replace('trainA', 'trainB')},train,{n},0+")
    (two / "t.csv").write_text("\n".join(["he,ihc,split,case,grade", *rows]))
    training = (
        ("train", "cut-tiny", "--data", "t.csv", "--out", "run", "--steps", 1),
        ("pairs", "check", "t.csv", "--out", "o"),
    )
    three = seeds.folder("csv cut", "he.ome.tif", "ihc.ome.tif", "ihc.transform.json")
    (three / "t.csv").write_text("he,ihc,case,transform\nhe.ome.tif,ihc.ome.tif,1,ihc.transform.json\n")
    cutting = (("pairs", "cut", "t.csv", "--out", "cut", "--size", 128, "--validation", 0),)
    four = seeds.folder("csv landmarks", "ihc.transform.json", "ihc.landmarks.csv")
    error = (("pairs", "error", "ihc.transform.json", "--landmarks", "ihc.landmarks.csv"),)
    ways = (mutators.csv_fields,)
    tables_of = ((one, "t.csv", staining), (two, "t.csv", training), (three, "t.csv", cutting))
    return [Case(made, name, ways, words) for made, name, words in (*tables_of, (four, "ihc.landmarks.csv", error))]


def transforms(seeds: Seeds) -> list[Case]:
    """How a section lies on its neighbour."""
    made = seeds.folder("transform", "ihc.transform.json", "ihc.landmarks.csv", "he.ome.tif", "ihc.ome.tif")
    commands = (
        ("pairs", "error", "ihc.transform.json", "--landmarks", "ihc.landmarks.csv"),
        (*CUT, "--transform", "ihc.transform.json"),
    )
    return [Case(made, "ihc.transform.json", (mutators.json_values, mutators.bytes_of_any), commands)]


def statistics(seeds: Seeds) -> list[Case]:
    """Statistics that another slide has left."""
    made = seeds.folder("statistics", MODEL, SLIDE)
    run(("stain-slides", SLIDE, *STAIN_SLIDE), made)
    shutil.copy(made / "r.statistics.safetensors", made / "st.safetensors")
    for path in made.glob("r.*"):
        path.unlink()
    words = ("stain-slides", SLIDE, *STAIN_SLIDE, "--norm", "st.safetensors")
    return [Case(made, "st.safetensors", (mutators.safetensors_header, mutators.bytes_of_any), (words,))]


def spools(seeds: Seeds) -> list[Case]:
    """What a killed run has left of a slide."""
    words = ("stain-slides", SLIDE, *STAIN_SLIDE, "--tile-px", 64)
    whole = seeds.folder("spool whole", MODEL, SLIDE)
    run(words, whole)
    made = seeds.folder("spool", MODEL, SLIDE)
    spool = made / "r.ome.tif.spool"
    _stop_when(start(words, made), spool / "tiles.sqlite-wal", 60_000)
    with sqlite3.connect(spool / "tiles.sqlite") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    expected = contents(whole)
    kept = [path for path in sorted(spool.iterdir()) if path.stat().st_size]
    return [
        Case(made, f"{spool.name}/{path.name}", (mutators.bytes_of_any,), (words,), ("r.ome.tif",), expected)
        for path in kept
    ]


def runs(seeds: Seeds) -> list[Case]:
    """What a training leaves that is not yet over: state, listing, recipe, log."""
    settings = ("--set", "training.save_every_steps=2", "--set", "training.log_every_steps=1")
    start_of = ("train", "reconstruct-tiny", "--data", "pairs", "--out", "run", "--set", "data.crop_px=32", *settings)
    whole = seeds.folder("run whole", "pairs")
    run((*start_of, "--steps", 4), whole)
    made = seeds.folder("run", "pairs")
    _stop_when(start((*start_of, "--steps", 4), made), made / "run" / "state.pt", 0)
    ways: dict[str, tuple[mutators.Mutator, ...]] = {
        "state.pt": (mutators.bytes_of_any, mutators.pickle_with_code),
        "data.txt": (mutators.bytes_of_any,),
        "recipe.toml": (mutators.toml_values, mutators.bytes_of_any),
        "losses.jsonl": (mutators.bytes_of_any,),
    }
    words, expected = (*start_of, "--steps", 4), {"run/model.safetensors": weights_of(whole / "run")}
    return [
        Case(made, f"run/{name}", way, (words,), tuple(expected), expected)
        for name, way in ways.items()
        if (made / "run" / name).exists()
    ]


def cuttings(seeds: Seeds) -> list[Case]:
    """What cutting pairs notes for the next time."""
    made = seeds.folder("cut", "he.ome.tif", "ihc.ome.tif")
    run(CUT, made)
    found = []
    for path in sorted((made / "cut").rglob("*")):
        if path.suffix in (".json", ".csv"):
            way = mutators.json_values if path.suffix == ".json" else mutators.csv_fields
            found.append(Case(made, str(path.relative_to(made)), (way, mutators.bytes_of_any), (CUT,)))
    return found


KINDS: dict[str, Callable[[Seeds], list[Case]]] = {
    "checkpoint": checkpoints,
    "csv": tables,
    "cut": cuttings,
    "geojson": geojson,
    "image": images,
    "ome-xml": ome_xml,
    "pth": weights,
    "recipe": recipes,
    "run": runs,
    "slide": slides,
    "spool": spools,
    "statistics": statistics,
    "transform": transforms,
}


def weights_of(run_folder: Path) -> str:
    """The hash of what a training has learnt; empty where there is nothing."""
    from restain.checkpoint import read_info
    from restain.errors import RestainError

    try:
        return read_info(run_folder / "model.safetensors").sha256
    except RestainError:
        return ""


def _stop_when(running: processes.Run, file: Path, size: int) -> None:
    """Kill a command once a file has more than so many bytes."""
    while not running.poll():
        if file.exists() and file.stat().st_size > size:
            running.end("")
        time.sleep(0.002)
