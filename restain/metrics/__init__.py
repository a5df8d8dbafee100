"""Evaluation of virtual stains: every figure comes with its number of tiles, an interval and its protocol."""

from restain.metrics.comparison import ComparisonTable, difference, tabulate
from restain.metrics.evaluation import Evaluation, evaluate
from restain.metrics.figure import Figure
from restain.metrics.judges import PRESETS, Judges, find_judges
from restain.metrics.registry import METRICS, Metric

__all__ = [
    "METRICS",
    "PRESETS",
    "ComparisonTable",
    "Evaluation",
    "Figure",
    "Judges",
    "Metric",
    "difference",
    "evaluate",
    "find_judges",
    "tabulate",
]
