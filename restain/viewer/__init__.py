"""A page in the browser that shows a slide and, beside it, its virtual stain, made tile by tile where one looks."""

from restain.viewer.notebook import Cell, show
from restain.viewer.opening import Server, View, open_view

__all__ = ["Cell", "Server", "View", "open_view", "show"]
