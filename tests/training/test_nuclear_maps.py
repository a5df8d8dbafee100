"""Maps of the density of nuclei that TDKStain needs are made once for all runs beside one another."""

from collections.abc import Callable
from pathlib import Path

from restain.training import Recipe, train

Small = Callable[..., Recipe]


def test_runs_share_their_maps_unless_nuclei_are_found_otherwise(small: Small, tiles: Path, tmp_path: Path) -> None:
    data = {"batch_size": 1}
    train(small("tdkstain", data=data, seed=1), tiles, tmp_path / "first", steps=8)  # an epoch
    (folder,) = (tmp_path / "auxiliary").iterdir()
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(made) == sorted(path.name for path in (tiles / "trainB").iterdir())
    train(small("tdkstain", data=data, seed=2), tiles, tmp_path / "second", steps=8)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made
    train(small("tdkstain", data=data, model={"nucleus_px": 9}), tiles, tmp_path / "third", steps=1)
    assert len(list((tmp_path / "auxiliary").iterdir())) == 2
