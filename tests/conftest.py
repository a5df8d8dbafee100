"""What tests share: golden numbers, development images, a small drawn slide and a generator for it, few threads."""

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from typer.main import get_command

from restain.checkpoint import save_checkpoint
from restain.cli import app
from restain.image import RGB
from restain.networks.generator import Generator, GeneratorConfig
from restain.slides.codec import Codec
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.workers import processes
from restain.workers.interrupts import SIGNALS
from restain.workers.ray import Cluster, connected

ROOT = Path(__file__).resolve().parents[1]

SIZE = (600, 430)

# Two workers share two cores: more threads make every test slower, and one thread makes sums repeatable.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start

gc.disable()  # until all is imported, which makes no garbage: looking for it takes half as long again

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in what a shell's script starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "restain",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("restain")

if "fork" in multiprocessing.get_all_start_methods():
    # Helpers begin as copies of the tests' process, which has imported everything: seconds less for each of them.
    processes.CONTEXT = multiprocessing.get_context("fork")


def pytest_collection_finish() -> None:
    """Look for garbage from now on, and only in what comes from now on."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let neighbouring tests stay in one process, so that what a module prepares is prepared once."""
    from xdist.scheduler.worksteal import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Let no test's draws depend on which tests came before it in its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Ray cluster of this machine, which takes seconds to begin."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'restain[ray]'")
    processes.CONTEXT = multiprocessing.get_context("spawn")  # copies of what Ray has begun here would not work
    answers = [signal.getsignal(number) for number in SIGNALS]
    with connected("local", 2) as found:
        assert [signal.getsignal(number) for number in SIGNALS] == answers, "Ray does not decide how it is stopped"
        yield found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs Ray comes last."""
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def warm() -> None:
    """Let the first optimiser have imported what it imports, before copies of this process do it one by one."""
    torch.optim.SGD([torch.zeros(1)], lr=0.0)


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
    """Every command of the command line by its words, such as `train` or `pairs check`."""
    found = {}
    for word, command in get_command(app).commands.items():
        second_words = getattr(command, "commands", {"": command})
        found |= {f"{word} {second}".strip(): part for second, part in second_words.items()}
        if getattr(command, "invoke_without_command", False):
            found[word] = command
    return found


def draw(width: int = SIZE[0], height: int = SIZE[1], tissue: bool = True) -> RGB:
    """Grey glass; on it, right of the middle, an ellipse of pink and violet."""
    y, x = np.mgrid[:height, :width]
    rgb = np.full((height, width, 3), 240, np.uint8)
    if tissue:
        inside = ((x - 0.65 * width) / (0.25 * width)) ** 2 + ((y - 0.5 * height) / (0.3 * height)) ** 2 < 1
        violet = (np.sin(x / 5) + np.sin(y / 7) > 0.5)[..., None]
        rgb = np.where(inside[..., None], np.where(violet, (110, 70, 150), (225, 150, 190)), rgb).astype(np.uint8)
    return rgb


@pytest.fixture
def drawing() -> RGB:
    """The drawing on the slide, 600 x 430 px."""
    return draw()


@pytest.fixture
def make_slide(tmp_path: Path) -> Callable[..., Path]:
    """Write a drawing without loss as a slide."""

    def make(name: str = "he.ome.tif", *, mpp: float = 8.0, tissue: bool = True) -> Path:
        rgb = draw(tissue=tissue)
        write_slide(
            tmp_path / name,
            SIZE,
            lambda x, y, width, height: rgb[y : y + height, x : x + width],
            Description("drawn", mpp),
            codec=Codec("lossless"),
            tile_px=128,
        )
        return tmp_path / name

    return make


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A generator that was never trained, at 8 µm per px."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=2, blocks=1))
    save_checkpoint(tmp_path / "model.safetensors", generator, method="cut", stain="HER2", mpp=8.0)
    return tmp_path / "model.safetensors"
