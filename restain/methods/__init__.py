"""The methods, one file per paper, by name."""
