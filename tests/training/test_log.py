import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from restain.errors import NonFiniteLossError
from restain.training.log import Log, keep_lines
from restain.training.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


def test_a_line_is_the_mean_since_the_line_before(tmp_path: Path) -> None:
    with Log(tmp_path, "run", 0, 4, ALONE) as log:
        for step in (1, 2, 3, 4):
            log.add(step, {"generator/gan": torch.tensor(float(step)), "generator/nce": torch.tensor(10.0 * step)})
            if step % 2 == 0:
                log.write(step / 8, 1.0, 0)
    assert lines(tmp_path) == [
        {"step": 2, "epoch": 0.25, "rate_factor": 1.0, "generator/gan": 1.5, "generator/nce": 15.0},
        {"step": 4, "epoch": 0.5, "rate_factor": 1.0, "generator/gan": 3.5, "generator/nce": 35.0},
    ]


def test_a_term_may_be_missing_in_some_steps(tmp_path: Path) -> None:
    with Log(tmp_path, "run", 0, 3, ALONE) as log:
        log.add(1, {"gan": torch.tensor(1.0)})
        log.add(2, {"gan": torch.tensor(3.0), "guidance": torch.tensor(5.0)})
        assert log.write(0.0, 1.0, 0) == {"gan": 2.0, "guidance": 5.0}


def test_a_step_does_not_wait_for_its_losses(tmp_path: Path) -> None:
    with Log(tmp_path, "run", 0, 3, ALONE) as log:
        log.add(1, {"gan": torch.empty((), device="meta")})  # whose value cannot be read


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_named_with_the_step_where_it_began(tmp_path: Path, bad: float) -> None:
    with Log(tmp_path, "run", 0, 9, ALONE) as log:
        for step in range(1, 6):
            log.add(step, {"generator/gan": torch.tensor(1.0), "generator/nce": torch.tensor(bad if step > 2 else 1.0)})
        with pytest.raises(NonFiniteLossError, match=r"in step 3 the loss generator/nce is .*those of step 2"):
            log.write(0.0, 1.0, 2)
    assert not (tmp_path / "losses.jsonl").exists()


def test_lines_after_the_resumed_step_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"ste')
    keep_lines(path, 4)
    assert path.read_text() == '{"step": 2}\n{"step": 4}\n'
    path.write_text('{"step": 2}')
    keep_lines(path, 4)
    assert path.read_text() == ""


def test_a_process_that_does_not_write_leaves_no_file(tmp_path: Path) -> None:
    with Log(tmp_path, "run", 0, 1, Ranks(1, 2, torch.device("cpu")), Console()) as log:
        assert log.console is None
    assert not list(tmp_path.iterdir())


def told(tmp_path: Path, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with Log(tmp_path, "first", 0, 40, ALONE, console) as log:
        for step in range(1, 21):
            log.add(step, {"generator/gan": torch.tensor(0.25)})
        log.write(1.0, 1.0, 0)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_tells_steps_rate_time_left_and_losses(tmp_path: Path, terminal: bool) -> None:
    text = told(tmp_path, terminal)
    for word in ("first", "20/40", "steps/s", "-:--:--" if terminal else "0:00:00 left", "generator/gan 0.25"):
        assert word in text


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Log(tmp_path, "run", 0, 4, ALONE) as log:
        log.add(1, {"generator/gan": torch.tensor(2.0)})
        log.write(0.25, 0.5, 0)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {"generator/gan": [(1, 2.0)], "rate_factor": [(1, 0.5)]}
