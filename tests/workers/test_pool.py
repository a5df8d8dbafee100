"""Pieces of work in processes: each result comes back, one that fails or dies does not stop the others."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from restain.errors import InputError, RestainError
from restain.workers.pool import Processes, TaskError


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def odd_one(number: int) -> int:
    if number == 1:
        raise InputError("the tile is torn")
    if number == 2:
        raise KeyError("nobody")
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies_once(sign: Path) -> int:
    if not sign.exists():
        sign.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_result_comes_once_with_its_index(count: int) -> None:
    found = dict(Processes(count).each(square, [(number,) for number in range(4)]))
    assert {index: value for index, (value, _) in found.items()} == {0: 0, 1: 1, 2: 4, 3: 9}
    pids = {pid for _, pid in found.values()}
    assert (os.getpid() in pids) == (count == 1)
    assert len(pids) <= count


def test_fresh_processes_are_not_used_again() -> None:
    begun: list[int] = []
    found = dict(Processes(1).each(square, [(1,), (2,), (3,)], fresh=True, on_begin=begun.append))
    assert len({pid for _, pid in found.values()} | {os.getpid()}) == 4
    assert begun == [0, 1, 2]


def test_what_fails_or_dies_does_not_stop_the_others() -> None:
    found = dict(Processes(2).each(odd_one, [(number,) for number in range(5)]))
    assert (found[0], found[4]) == (0, 4)
    assert str(found[1]) == "the tile is torn"
    assert "KeyError" in str(found[2])
    assert "signal 9, 3 times" in str(found[3])
    assert all(isinstance(found[index], TaskError) for index in (1, 2, 3))


def test_a_piece_whose_process_was_killed_begins_again_as_often_as_allowed(tmp_path: Path) -> None:
    begun: list[int] = []
    ((_, pid),) = Processes(2).each(dies_once, [(tmp_path / "a",)], on_begin=begun.append)
    assert isinstance(pid, int)
    assert pid != os.getpid()
    assert begun == [0], "a second attempt is not announced"
    ((_, failed),) = Processes(2, attempts=1).each(dies_once, [(tmp_path / "b",)])
    assert isinstance(failed, TaskError)
    assert "times" not in str(failed)


def test_idle_processes_that_are_killed_lose_nothing() -> None:
    each = Processes(2).each(square, [(number,) for number in range(6)])
    found = [next(each)]
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    found += each
    assert sorted(value for _, (value, _) in found) == [0, 1, 4, 9, 16, 25]


def test_no_process_is_left_when_nobody_asks_for_more() -> None:
    each = Processes(2).each(square, [(number,) for number in range(6)])
    next(each)
    each.close()
    assert not multiprocessing.active_children()


def test_a_process_that_cannot_begin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restain.workers.pool._serve", end_at_once)
    with pytest.raises(RestainError, match="code 9 before it started"):
        list(Processes(2).each(square, [(1,)]))


def end_at_once(*_: object) -> None:
    os._exit(9)


def test_processes_share_out_the_gpus_that_are_visible_and_one_alone_has_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("restain.workers.pool._gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    asked = [("CUDA_VISIBLE_DEVICES",)] * 6
    assert {seen for _, seen in Processes(2, "cuda").each(os.getenv, asked)} <= {"5", "7"}
    assert {seen for _, seen in Processes(1, "cuda", apart=True).each(os.getenv, asked)} == {"5,7"}


def test_apart_means_in_another_process() -> None:
    assert {pid for _, pid in Processes().each(os.getpid, [()])} == {os.getpid()}
    assert os.getpid() not in {pid for _, pid in Processes(apart=True).each(os.getpid, [()])}
