"""`restain view`: a slide and its virtual stain in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from restain.cli.options import Bfloat16Option, DeviceOption, MarkerOption, SlideMppOption

ADVANCED = "Less common"


def command(
    slide: Annotated[Path, typer.Argument(help="H&E slide.", metavar="SLIDE", show_default=False)],
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="Checkpoint of a generator, or the name of a model that comes with restain; repeat for several.",
            metavar="FILE|NAME",
            show_default=False,
        ),
    ] = None,
    virtual: Annotated[
        list[Path] | None,
        typer.Option(
            help="Finished virtual stain of the slide, by restain or another program; repeat for several.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    ihc: Annotated[
        Path | None,
        typer.Option(help="Slide of the neighbouring section with the real IHC.", metavar="FILE", show_default=False),
    ] = None,
    transform: Annotated[
        Path | None,
        typer.Option(
            help="Transform from the H&E to the IHC slide, as `restain pairs cut` writes it.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    ihc_mpp: Annotated[
        float | None,
        typer.Option(
            help="Micrometres per pixel of the IHC slide, as given to `restain pairs cut`.",
            show_default="its own",
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the result.", metavar="DIR", show_default="the slide's folder"),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address without opening a browser.")] = False,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535, show_default="a free one")] = 0,
    marker: MarkerOption = "membrane",
    cells: Annotated[
        list[Path] | None,
        typer.Option(
            help="Cells from `restain quantify`, drawn over the image that each file is named after; repeatable.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    mpp: SlideMppOption = None,
    bfloat16: Bfloat16Option = False,
    device: DeviceOption = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; with any other than this machine's own, whoever knows the printed address "
            "can see the slide.",
            rich_help_panel=ADVANCED,
        ),
    ] = "127.0.0.1",
) -> None:
    """View a slide and its virtual stain in the browser; tiles are stained where you look, and kept."""
    from restain.cli.device import usable_device
    from restain.errors import InputError
    from restain.models import find_model
    from restain.staining.settings import SlideSettings

    try:
        from restain.viewer import Server, View, open_view
    except ImportError as error:
        raise InputError(f"the viewer needs {error.name}; install it with pip install 'restain[view,slides]'") from None

    if transform and not ihc:
        raise InputError("--transform maps to the slide of --ihc; give both")
    if ihc_mpp is not None and not ihc:
        raise InputError("--ihc-mpp is of the slide of --ihc; give both")
    view = View(
        slide,
        models=tuple(map(find_model, model or ())),
        virtual=tuple(virtual or ()),
        ihc=ihc,
        ihc_mpp=ihc_mpp,
        transform=transform,
        cells=tuple(cells or ()),
        out=out,
        settings=SlideSettings(mpp=mpp, bfloat16=bfloat16),
        device=usable_device(device),
        marker=marker,
    )
    notes: list[str] = []
    with open_view(view, notes) as viewer:
        server = Server(viewer, host, port)
        typer.echo(server.address)
        for note in notes:
            typer.echo(note, err=True)
        if view.models:
            typer.echo("Tiles are kept next to the result. Press Ctrl-C to stop.", err=True)
        server.run(open_browser=not no_open)
