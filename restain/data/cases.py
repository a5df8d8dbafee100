"""Which case (a patient, a slide) a tile belongs to, read off its name."""

import re
from collections.abc import Callable

from restain.errors import InputError


def cases_by_pattern(pattern: str) -> Callable[[str], str]:
    """Turn a regular expression into a function from a tile's name to its case.

    Args:
        pattern: searched for in the name without ending; the case is what its first group matched, or all of it where
            it has none. `^[^_]+` takes what comes before the first underscore.

    Returns:
        The function. It raises InputError for a name in which the pattern does not occur.

    Raises:
        InputError: not a regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"'{pattern}' is not a regular expression: {error}") from error

    def case(name: str) -> str:
        match = compiled.search(name)
        if match is None:
            raise InputError(f"'{pattern}' does not occur in the tile name '{name}', so its case is unknown")
        return match.group(1 if compiled.groups else 0) or ""

    return case
