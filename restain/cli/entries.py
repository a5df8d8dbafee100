"""Parses networks for FID and KID on the command line."""

from pathlib import Path

from restain.errors import InputError


def entry(words: str) -> tuple[str, Path]:
    """Split `module:attribute=weights`.

    Raises:
        InputError: the weights are missing.
    """
    name, _, weights = words.partition("=")
    if not weights:
        raise InputError(f"--extractor {words}: give module:attribute=weights, such as my_package.net:Net=net.pth")
    return name, Path(weights)
