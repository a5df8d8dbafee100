"""How good is a virtual stain? Every figure comes with its number of tiles, an interval and its protocol."""

from restain.metrics.comparison import Table, difference, tabulate
from restain.metrics.evaluation import Evaluation, Figure, evaluate
from restain.metrics.table import METRICS, Metric

__all__ = ["METRICS", "Evaluation", "Figure", "Metric", "Table", "difference", "evaluate", "tabulate"]
