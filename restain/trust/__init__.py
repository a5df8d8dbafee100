"""Reliability of a virtual stain: whether it depends on the orientation of the H&E, and how familiar the H&E is.

A network produces a result for every input. Two maps show where it is a guess: `disagreement` and `familiarity`.
"""
