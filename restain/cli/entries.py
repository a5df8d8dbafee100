"""How the command line names a network for FID and KID."""

from pathlib import Path

from restain.errors import InputError


def entry(words: str) -> tuple[str, Path]:
    """Split `module:attribute=weights`.

    Raises:
        InputError: no weights are named.
    """
    name, _, weights = words.partition("=")
    if not weights:
        raise InputError(f"--extractor {words}: give module:attribute=weights, such as my_package.net:Net=net.pth")
    return name, Path(weights)
