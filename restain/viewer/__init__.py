"""A page in the browser that shows a slide and, beside it, its virtual stain, made tile by tile where one looks."""

from restain.viewer.listening import Server
from restain.viewer.notebook import NotebookView, show
from restain.viewer.opening import View, open_view

__all__ = ["NotebookView", "Server", "View", "open_view", "show"]
