import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Adam

from restain.errors import CheckpointError, NonFiniteLossError, OutputError
from restain.training.state import (
    Saved,
    check_finite,
    load_method_weights,
    load_state,
    read_saved,
    save_state,
    steps_done,
)


def learner(seed: int, size: int = 3) -> tuple[nn.Module, dict[str, Adam]]:
    """A network after one step, with its optimiser."""
    network = nn.Sequential(nn.Linear(size, size), nn.BatchNorm1d(size))
    draws = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.data = torch.rand(weight.shape, generator=draws)
    optimizer = Adam(network.parameters(), lr=0.1)
    network(torch.rand(4, size, generator=draws)).square().sum().backward()
    optimizer.step()
    return network, {"all": optimizer}


def test_everything_comes_back(tmp_path: Path) -> None:
    before, after = learner(0), learner(1)
    saved = Saved(7, 9, (3, 5), {"file": "m.safetensors", "sha256": "ab"}, ((7, {"gan": 0.1}),))
    save_state(tmp_path / "state.pt", *before, saved)
    assert load_state(tmp_path / "state.pt", *after) == saved
    assert read_saved(tmp_path / "state.pt") == saved
    assert steps_done(tmp_path / "state.pt") == 7
    for old, new in zip(before[0].state_dict().values(), after[0].state_dict().values(), strict=True):
        assert torch.equal(old, new)
    for old, new in zip(before[1]["all"].state.values(), after[1]["all"].state.values(), strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_without_a_file_nothing_has_been_done(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state.pt", *learner(0)) is None
    assert steps_done(tmp_path / "state.pt") == 0


@pytest.mark.parametrize("contents", [b"", b"no state at all", None])
def test_a_damaged_state_is_refused_with_the_way_out(tmp_path: Path, contents: bytes | None) -> None:
    path = tmp_path / "state.pt"
    save_state(path, *learner(0), Saved(1, 9))
    path.write_bytes(path.read_bytes()[:-100] if contents is None else contents)
    with pytest.raises(CheckpointError, match=r"state.pt cannot be resumed from .*; remove it to start this run again"):
        load_state(path, *learner(0))
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        steps_done(path)


def test_the_state_of_another_method_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", *learner(0), Saved(1, 9))
    with pytest.raises(CheckpointError, match=r"cannot be resumed from \(.*has the shape .*\); remove it to start"):
        load_state(tmp_path / "state.pt", *learner(0, size=4))


def test_any_flipped_bit_in_what_was_learned_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    network, optimizers = learner(0)
    save_state(path, network, optimizers, Saved(1, 9))
    whole = path.read_bytes()
    kept = [network.get_parameter("0.weight"), *next(iter(optimizers["all"].state.values())).values()]
    for tensor in (tensor.detach() for tensor in kept if tensor.numel() > 1):
        place = whole.index(tensor.numpy().tobytes())
        for bit in (0, 7, 30):
            damaged = bytearray(whole)
            damaged[place + 4 + bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            for read in (lambda: load_state(path, *learner(0)), lambda: load_method_weights(path, learner(0)[0])):
                with pytest.raises(CheckpointError, match=r"state.pt .*differ from what was saved"):
                    read()
    path.write_bytes(whole)
    assert load_state(path, *learner(0))


def test_a_tensor_that_claims_more_than_the_file_holds_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, *learner(0), Saved(1, 9))
    state = torch.load(path, weights_only=True)
    state["method"]["0.weight"] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"state.pt cannot be resumed from"):
        load_state(path, *learner(0))


def test_code_in_a_state_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"steps_done": Payload()}, tmp_path / "state.pt")
    for read in (steps_done, lambda path: load_state(path, *learner(0))):
        with pytest.raises(CheckpointError):
            read(tmp_path / "state.pt")
    assert not (tmp_path / "ran").exists()


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, *learner(0), Saved(1, 9))
    with room_for(2000), pytest.raises(OutputError, match=r"cannot write .*state.pt: .*nothing was left behind"):
        save_state(path, *learner(1, size=64), Saved(2, 9))
    assert steps_done(path) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_kept(bad: float) -> None:
    network, _ = learner(0)
    check_finite(network.state_dict(), 4, 2)
    network.get_parameter("1.weight").data[1] = bad
    with pytest.raises(NonFiniteLossError, match=r"after step 4 the weights 1.weight .* are those of step 2"):
        check_finite(network.state_dict(), 4, 2)
