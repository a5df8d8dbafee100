"""Pieces of work on a Ray cluster: each result comes back, one that fails or dies does not stop the others."""

from pathlib import Path

import pytest

from restain.errors import InputError
from restain.workers.pool import TaskError
from restain.workers.ray import Cluster, _device
from tests.workers.pieces import any_of_them


def test_a_lost_worker_is_replaced_and_failures_are_told(tmp_path: Path, cluster: Cluster) -> None:
    names = ("well", "badly", "oddly", "dies", "dies_once")
    found = dict(cluster.each(any_of_them, [(name, tmp_path / "sign") for name in names]))
    well, badly, oddly, dead, again = (found[index] for index in range(5))
    assert all(isinstance(failed, TaskError) for failed in (badly, oddly, dead))
    assert str(badly) == "the tile is torn"
    assert str(oddly) == "unexpected KeyError: 'nobody'"
    assert "lost 3 times" in str(dead)
    assert (tmp_path / "sign").exists()
    assert {type(well), type(again)} == {int}


def test_each_piece_gets_a_process_of_its_own_where_that_is_asked(tmp_path: Path, cluster: Cluster) -> None:
    given = [("well", tmp_path)] * 2
    assert len({pid for _, pid in cluster.each(any_of_them, given, fresh=True)}) == 2


def test_a_gpu_that_no_machine_of_the_cluster_has_is_refused(cluster: Cluster) -> None:
    assert cluster.device == "cpu"
    with pytest.raises(InputError, match="cluster has no GPU"):
        _device(cluster.ray, "cuda")
