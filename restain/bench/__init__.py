"""Compares methods under the same budget, on the same data, with the same metrics, in one table."""

from restain.bench.rows import Budget, Row, read_rows
from restain.bench.run import run_bench

__all__ = ["Budget", "Row", "read_rows", "run_bench"]
