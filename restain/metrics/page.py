"""HTML pages: templates, one style sheet and embedded pictures, so that a page needs no other file.

Templates are beside the code that fills them and may include one another by path in the package, such as
`metrics/page.css` and `metrics/figures.html`.
"""

import base64
import io
from pathlib import Path
from typing import Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from restain.image import atomic_path

_MEDIA = {"PNG": "image/png", "JPEG": "image/jpeg"}


def render_page(path: Path, template: str, **content: object) -> None:
    """Render a Jinja template and write the page atomically.

    Args:
        path: of the page.
        template: its path in the package, such as `metrics/report.html`.
        **content: variables of the template; a missing one is an error.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    environment = Environment(
        loader=PackageLoader("restain", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"png": png, "jpeg": jpeg}
    html = environment.get_template(template).render(content)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def png(rgb: NDArray[np.uint8]) -> str:
    """An image at full size as data URI; H x W x 3."""
    return _data_uri(Image.fromarray(rgb), "PNG", optimize=True)


def jpeg(rgb: NDArray[np.uint8], longest_px: int = 320) -> str:
    """A thumbnail as data URI; H x W x 3."""
    image = Image.fromarray(rgb)
    image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return _data_uri(image, "JPEG", quality=88)


def _data_uri(image: Image.Image, form: Literal["PNG", "JPEG"], **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return f"data:{_MEDIA[form]};base64,{base64.b64encode(buffer.getvalue()).decode()}"
