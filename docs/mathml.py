"""Write the formulas of the pages as MathML while the site is built, so that a browser shows them without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(?P<tag>div|span) class="arithmatex">\\[\[(](?P<latex>.*?)\\[\])]</(?P=tag)>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace each formula that the Markdown extension marked; called by MkDocs for every page."""

    def to_mathml(match: re.Match[str]) -> str:
        return convert(html.unescape(match["latex"]), display="block" if match["tag"] == "div" else "inline")

    return FORMULA.sub(to_mathml, content)
