"""Losses: pure functions of tensors, each a mean over images, computed in full precision."""
