"""Where not to believe a virtual stain: where it depends on how the H&E is turned, or the H&E is unlike the training's.

A network answers for every input. Two maps tell where its answer is a guess: `disagreement` and `familiarity`.
"""
