"""Pieces of work that fail in every way, in a module that a new process has read at once."""

import os
import signal
from pathlib import Path

from restain.errors import InputError


def well(_: Path) -> int:
    return os.getpid()


def badly(_: Path) -> None:
    raise InputError("the tile is torn")


def oddly(_: Path) -> None:
    raise KeyError("nobody")


def dies(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_once(sign: Path) -> int:
    if not sign.exists():
        sign.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def any_of_them(name: str, sign: Path) -> object:
    return {each.__name__: each for each in (well, badly, oddly, dies, dies_once)}[name](sign)
