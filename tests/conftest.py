"""What tests share: golden numbers, development images, a small drawn data set, bounded threads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from typer.main import get_command

from restain.cli import app

ROOT = Path(__file__).resolve().parents[1]

# Two workers share two cores: more threads make every test slower, and one thread makes sums repeatable.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start

settings.register_profile(
    "restain",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("restain")


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, NDArray[np.float32]]]:
    """Load `tests/golden/NAME.npz`: numbers that the methods' published code computed on fixed inputs."""

    def load(name: str) -> dict[str, NDArray[np.float32]]:
        with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as file:
            return dict(file)

    return load


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development images beside the project; tests that need it are skipped where it is missing."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the development images are not beside the project")
    return folder


@pytest.fixture(scope="session")
def verbs() -> dict[str, Any]:
    """Every command of the command line by its words, such as `train` or `data check`."""
    found = {}
    for word, command in get_command(app).commands.items():
        second_words = getattr(command, "commands", {"": command})
        found |= {f"{word} {second}".strip(): part for second, part in second_words.items()}
        if getattr(command, "invoke_without_command", False):
            found[word] = command
    return found
