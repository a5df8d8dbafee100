import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from restain.errors import ConfigError, InputError
from restain.methods import METHODS
from restain.training import Recipe, train
from restain.training.ranks import join
from restain.workers import processes
from restain.workers.processes import start_process
from tests.training.double_precision import doubled, train_all

Write = Callable[..., Path]


def train_in_two(recipes: list[Path], data: Path, out: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    there = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    begun = [start_process(train_all, recipes, data, out, there | rank) for rank in ranks]
    for process in begun:
        process.join(170)
        assert process.exitcode == 0


@pytest.mark.skipif(
    processes.CONTEXT.get_start_method() != "fork", reason="the processes would not know of the methods in float64"
)
def test_two_processes_learn_what_one_does_with_the_joined_batch(
    write_recipe: Write, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ("asp", "pspstain", "vsmt")  # all that CUT does, ASP does too
    # dropout differs between processes
    exact = {"pspstain": {"segmenter_training": False}}
    recipes = [
        write_recipe(
            name,
            data={"batch_size": 4},
            # three of two steps an epoch, so that ASP's places count by how far they agree
            training={"steps": 3 if name == "asp" else 2, "epochs": 1, "decay_epochs": 2},
            model=exact.get(name, {}),
        )
        for name in methods
    ]
    for method in methods:
        monkeypatch.setitem(METHODS, method, doubled(METHODS[method]))
        train(tmp_path / f"{method}.toml", tiles, tmp_path / "one" / method)
    # the auxiliary models have dropout: two processes find those that one has made
    shutil.copytree(tmp_path / "one" / "auxiliary", tmp_path / "two" / "auxiliary")
    train_in_two(recipes, tiles, tmp_path / "two")
    for method in methods:
        one, two = tmp_path / "one" / method, tmp_path / "two" / method
        expected, found = (torch.load(out / "state.pt", weights_only=True)["method"] for out in (one, two))
        assert expected.keys() == found.keys()
        for name, weight in expected.items():
            assert weight.dtype == torch.float64 or not weight.is_floating_point()
            # of steps of 1e-4 and more; Adam enlarges the rounding errors of what learns nothing
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-8, msg=f"{method} {name}")
        lines = [[json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()] for out in (one, two)]
        assert lines[0] == [pytest.approx(line, rel=1e-5) for line in lines[1]]


def test_alone_there_is_one_process() -> None:
    ranks = join("cpu")
    assert (ranks.rank, ranks.count, ranks.device, ranks.writes) == (0, 1, torch.device("cpu"), True)
    ranks.wait()
    assert torch.equal(ranks.mean(torch.arange(3.0)), torch.arange(3.0))


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"device.*tpu.*expected auto, cpu or cuda"):
        join("tpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="process 1 needs its own GPU, but PyTorch sees 1"):
        join("cuda")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Be the first of so many processes."""

    def join_others(count: int) -> None:
        monkeypatch.setenv("WORLD_SIZE", str(count))
        for name, value in (("is_initialized", True), ("get_rank", 0), ("get_world_size", count)):
            monkeypatch.setattr(f"restain.training.ranks.distributed.{name}", lambda value=value: value)

    return join_others


def test_a_batch_that_processes_cannot_share_is_refused(
    pretend: Callable[[int], None], small: Callable[..., Recipe], tiles: Path, tmp_path: Path
) -> None:
    pretend(3)
    with pytest.raises(ConfigError, match=r"2, which 3 processes cannot share evenly; .* data.batch_size=3"):
        train(small("cut"), tiles, tmp_path / "run")


def test_each_process_must_have_the_images_that_are_compared(
    pretend: Callable[[int], None], small: Callable[..., Recipe], tiles: Path, tmp_path: Path
) -> None:
    pretend(2)
    words = r"is 2, so that each of 2 processes gets 1, but simgan compares .* data.batch_size=4"
    with pytest.raises(ConfigError, match=words):
        train(small("simgan"), tiles, tmp_path / "run")
