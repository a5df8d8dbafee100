"""Errors that a user can act on: every message says what was expected, what was found, and what to do.

Each error is also the built-in exception that a caller would expect. The command line prints the message without a
traceback and exits with status 1.
"""

from pathlib import Path


class RestainError(Exception):
    """Base class of the errors that restain raises on purpose."""


class InputError(RestainError, ValueError):
    """An image, folder or value that cannot be used."""


class MissingError(RestainError, FileNotFoundError):
    """A file or folder that should exist does not."""


class ShapeError(RestainError, ValueError):
    """A tensor whose shape does not fit."""


class ConfigError(RestainError, ValueError):
    """A recipe with an unknown key or an invalid value."""


class CheckpointError(RestainError, ValueError):
    """A weight file that is damaged, of another format, or of another network."""


class OutputError(RestainError, OSError):
    """A result that could not be written; nothing is left under its final name."""


class InUseError(OutputError):
    """A result that another process is writing."""

    def __init__(self, target: Path) -> None:
        """Name the result."""
        super().__init__(f"{target} is being written by another process; wait for it or end it")
        self.target = target

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        """Pickle for another process."""
        return InUseError, (self.target,)


class NonFiniteLossError(RestainError, ArithmeticError):
    """A loss became infinite or not a number; names the step, the term and the last good checkpoint."""
