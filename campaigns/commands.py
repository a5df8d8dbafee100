"""Long commands to be stopped, at a size that takes seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

MODEL = "model.safetensors"


@dataclass(frozen=True)
class Work:
    """A command that takes long, in a folder in which its inputs lie."""

    words: Sequence[object]
    inputs: tuple[str, ...]
    resumes: bool = True
    """Whether it goes on where it was stopped; else it begins again."""


def works() -> dict[str, Work]:
    """The long commands, at a size that takes seconds."""
    settings = ("save_every_steps=5", "log_every_steps=3", "evaluate_every_steps=8", "best_by=dab_error")
    training = [word for setting in settings for word in ("--set", f"training.{setting}")]
    tiny = [word for key in ("model.width=2", "model.positions=8", "data.crop_px=32") for word in ("--set", key)]
    slide = ("--model", MODEL, "--model-mpp", 0.5, "--tile-px", 64, "--device", "cpu")
    return {
        "train": Work(
            ("train", "cut-tiny", "--data", "pairs", "--out", "run", "--steps", 20, *training, *tiny),
            ("pairs",),
        ),
        "loaders": Work(
            ("train", "cut-tiny", "--data", "pairs", "--out", "run", "--steps", 20, *training, *tiny,
             "--set", "data.loaders=2"),
            ("pairs",),
        ),
        "stain": Work(
            ("stain-slides", "small.ome.tif", *slide, "--out", "r.ome.tif"), (MODEL, "small.ome.tif")
        ),
        "archive": Work(
            ("stain-slides", "small.ome.tif", "other.ome.tif", *slide, "--out", "o"),
            (MODEL, "small.ome.tif", "other.ome.tif"),
        ),
        "auxiliary": Work(
            ("train", "pspstain-tiny", "--data", "pairs", "--out", "run", "--steps", 4, *training, *tiny[:4],
             *(word for setting in ("steps=12", "save_every_steps=5") for word in
               ("--set", f"auxiliary.segmenter.training.{setting}"))),
            ("pairs",),
        ),
        "demo": Work(("demo", "--out", "demo"), ()),
        "view": Work(
            ("view", "small.ome.tif", "--model", MODEL, "--mpp", 0.5, "--no-open", "--device", "cpu"),
            (MODEL, "small.ome.tif"),
        ),
        "bench": Work(
            ("bench", "cut-tiny", "fastcut-tiny", "--data", "pairs", "--out", "bench", "--budget", "steps=4", "--seeds",
             1, "--tiles", 2, "--device", "cpu", *tiny),
            ("pairs",),
        ),
        "cut": Work(
            ("pairs", "cut", "he.ome.tif", "ihc.ome.tif", "--out", "cut", "--size", 128, "--validation", 0),
            ("he.ome.tif", "ihc.ome.tif"),
        ),
        "align": Work(("pairs", "align", "pairs", "--out", "aligned"), ("pairs",)),
        "phantom": Work(("phantom", "--slide", "p.ome.tif", "--size", 1500), ()),
        "statistics": Work(
            ("statistics", "he.ome.tif", "ihc.ome.tif", *slide[:4], "--device", "cpu", "--out", "s.safetensors",
             "--overwrite"),
            (MODEL, "he.ome.tif", "ihc.ome.tif"), resumes=False,
        ),
        "evaluate": Work(
            ("evaluate", "--virtual", "pairs/TrainValAB/trainA", "--real", "pairs/TrainValAB/trainB", "--out", "e",
             "--html", "e.html", "--device", "cpu"),
            ("pairs",), resumes=False,
        ),
        "quantify": Work(
            ("quantify", "pairs/TrainValAB/trainB", "--out", "q", "--marker", "membrane", "--mpp", 0.5, "--overwrite"),
            ("pairs",), resumes=False,
        ),
        "images": Work(
            ("stain", "pairs/TrainValAB/trainA", "--model", MODEL, "--out", "v", "--device", "cpu", "--overwrite"),
            (MODEL, "pairs"), resumes=False,
        ),
    }  # fmt: skip
