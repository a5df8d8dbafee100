"""Options that several commands share, each with one help text."""

from pathlib import Path
from typing import Annotated, Literal

import typer

CELLS = "Cells and stain colours"
TILES = "Tiles and normalisation"
SPEED = "Speed"

ModelOption = Annotated[
    Path,
    typer.Option(
        help="Checkpoint of a generator, a model that comes with restain (see restain models), or hf://OWNER/NAME.",
        metavar="MODEL",
        show_default=False,
    ),
]
OutFolderOption = Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR", show_default=False)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="Where to compute, such as cpu, cuda or cuda:1.", show_default="cuda if available")
]
TrainingDeviceOption = Annotated[
    str, typer.Option(help="Where to compute: cpu, cuda, or auto, which takes a GPU if there is one.")
]
SlideMppOption = Annotated[
    float | None,
    typer.Option(
        help="Micrometres per pixel of the slide, if its file has none or a wrong value.", show_default="from the slide"
    ),
]
ModelMppOption = Annotated[
    float | None,
    typer.Option(help="Micrometres per pixel that the model was trained at.", show_default="from the model"),
]
NormOption = Annotated[
    str,
    typer.Option(
        help="Statistics that normalise the tiles: slide (shared by all tiles), dense (changing smoothly from tile to "
        "tile), tile (each its own, which leaves seams), or a file of statistics.",
        metavar="slide|dense|tile|FILE",
        rich_help_panel=TILES,
    ),
]
HaloOption = Annotated[
    int | None,
    typer.Option(
        help="Margin read around each tile, in px.",
        show_default="the receptive radius of the generator",
        rich_help_panel=TILES,
    ),
]
Bfloat16Option = Annotated[
    bool,
    typer.Option("--bfloat16", help="Compute in bfloat16: faster on GPUs and on CPUs with AMX.", rich_help_panel=SPEED),
]
MarkerOption = Annotated[
    Literal["nuclear", "membrane"],
    typer.Option(help="Where DAB lies on positive cells: nuclear as Ki67 and ER, membrane as HER2."),
]
NucleusOption = Annotated[
    float, typer.Option(help="Diameter of a typical nucleus, in micrometres.", rich_help_panel=CELLS)
]
StainVectorsOption = Annotated[
    Literal["reference", "estimated"],
    typer.Option(
        help="Colours of the stains: those of Ruifrok & Johnston, or estimated from the IHC.", rich_help_panel=CELLS
    ),
]
CasesOption = Annotated[
    str | None,
    typer.Option(
        help="Regular expression that finds the case in a tile's name; its first group, if it has one.",
        metavar="REGEX",
        show_default="from pairs.csv, if there is one",
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Setting that overrides the recipe's; repeatable.", metavar="SECTION.KEY=VALUE"),
]
ExtractorsOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Another network for FID and KID, as module:attribute=weights; repeatable.",
        metavar="ENTRY",
        show_default=False,
        rich_help_panel="FID, KID and LPIPS",
    ),
]
