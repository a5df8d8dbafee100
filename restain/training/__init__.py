"""Training: recipes, the loop, the log, resuming, several processes."""

from restain.training.config import Recipe
from restain.training.recipes import load_recipe
from restain.training.run import train

__all__ = ["Recipe", "load_recipe", "train"]
