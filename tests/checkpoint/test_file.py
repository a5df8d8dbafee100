"""A checkpoint gives back the network it was given, and refuses everything else in a sentence."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from restain.checkpoint import (
    CheckpointInfo,
    Network,
    add_to_checkpoint,
    fold_spectral_norm,
    load_checkpoint,
    load_generator,
    misfit,
    read_info,
    save_checkpoint,
)
from restain.checkpoint.file import fingerprint
from restain.errors import CheckpointError, InputError, MissingError, OutputError
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.unet import UNet, UNetConfig

NETWORKS = [
    Generator(GeneratorConfig(width=2, blocks=1)),
    Generator(GeneratorConfig(width=2, blocks=2, norm="batch", antialias=False, spectral_norm=False, dropout=0.5)),
    Generator(GeneratorConfig(width=2, blocks=1, downsamplings=3)),
    UNet(UNetConfig(width=2, depth=3)),
    Autoencoder(AuxiliaryConfig(width=2, blocks=1)),
    Classifier(AuxiliaryConfig(width=2, blocks=1)),
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, NETWORKS[0], method="cut", stain="HER2", mpp=0.466, extra={"recipe": {"seed": 1}})
    return path


def images() -> Tensor:
    return torch.rand((2, 3, 24, 32), generator=torch.Generator().manual_seed(7)) * 2 - 1


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: f"{type(network).__name__}-{network.config}")
def test_what_is_saved_comes_back(network: Network, tmp_path: Path) -> None:
    info = save_checkpoint(tmp_path / "a" / "m.safetensors", network, method="some")
    loaded, found = load_checkpoint(tmp_path / "a" / "m.safetensors")
    assert found == info == read_info(tmp_path / "a" / "m.safetensors")
    assert type(loaded) is type(network)
    assert loaded.config == network.config
    weights, expected = loaded.state_dict(), network.state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_the_header_tells_where_it_came_from(saved: Path) -> None:
    info = read_info(saved)
    assert (info.kind, info.method, info.stain, info.mpp) == ("generator", "cut", "HER2", 0.466)
    assert info.extra == {"recipe": {"seed": 1}}
    assert info.network == {**GeneratorConfig(width=2, blocks=1).model_dump()}
    assert info.parameters == sum(weight.numel() for weight in NETWORKS[0].parameters())
    assert info.versions["torch"] == torch.__version__
    assert list(saved.parent.iterdir()) == [saved]


def test_what_is_added_changes_nothing_else(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_info(saved)
    monkeypatch.setattr("restain.checkpoint.file.version", lambda _: "99")
    monkeypatch.setattr("restain.checkpoint.file.datetime", None)  # there is no other date to be had
    added = add_to_checkpoint(saved, {"note": "seen"})
    assert added == read_info(saved) == before.model_copy(update={"extra": {"recipe": {"seed": 1}, "note": "seen"}})
    load_checkpoint(saved)


def test_the_hash_is_of_the_weights_alone(saved: Path, tmp_path: Path) -> None:
    again = save_checkpoint(tmp_path / "again.safetensors", NETWORKS[0], method="vsmt")
    other = Generator(GeneratorConfig(width=2, blocks=1))
    changed = save_checkpoint(tmp_path / "other.safetensors", other, method="vsmt")
    assert again.sha256 == read_info(saved).sha256 != changed.sha256


def test_loading_draws_no_random_numbers(saved: Path) -> None:
    before = torch.get_rng_state()
    load_checkpoint(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_channels_last_is_saved_as_the_same_weights(saved: Path, tmp_path: Path) -> None:
    network, info = load_checkpoint(saved)
    moved = network.to(memory_format=torch.channels_last)
    assert save_checkpoint(tmp_path / "moved.safetensors", moved, method="cut").sha256 == info.sha256


def test_folding_spectral_norm_changes_nothing_in_evaluation(saved: Path, tmp_path: Path) -> None:
    trained, _ = load_checkpoint(saved)
    folded = load_generator(saved)
    assert not folded.training
    assert not any(weight.requires_grad for weight in folded.parameters())
    assert not any(is_parametrized(layer) for layer in folded.modules())
    with torch.no_grad():
        assert torch.equal(folded(images()), trained.eval()(images()))

    save_checkpoint(tmp_path / "folded.safetensors", folded, method="cut")
    with torch.no_grad():
        assert torch.equal(load_generator(tmp_path / "folded.safetensors")(images()), folded(images()))


def test_a_unet_is_loaded_for_staining(tmp_path: Path) -> None:
    trained = UNet(UNetConfig(width=2, depth=3))
    save_checkpoint(tmp_path / "m.safetensors", trained, method="pix2pix")
    loaded = load_generator(tmp_path / "m.safetensors")
    assert not any(part.training for part in loaded.modules())
    assert not any(weight.requires_grad for weight in loaded.parameters())
    with torch.no_grad():
        assert torch.equal(loaded(images()), trained.eval()(images()))


def test_a_header_from_before_there_were_other_downsamplings_means_two(saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()["restain"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    del header["network"]["downsamplings"]
    safetensors.torch.save_file(weights, tmp_path / "old.safetensors", {"restain": json.dumps(header)})
    with torch.no_grad():
        assert torch.equal(load_generator(tmp_path / "old.safetensors")(images()), load_generator(saved)(images()))


def test_folding_keeps_the_mode_and_the_singular_vectors() -> None:
    generator = Generator(GeneratorConfig(width=2, blocks=1)).train()
    with torch.no_grad():
        expected = generator.eval()(images())
        assert fold_spectral_norm(generator.train()).training
        assert torch.equal(generator.eval()(images()), expected)


def test_only_a_generator_stains(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", NETWORKS[-1], method="classify")
    with pytest.raises(CheckpointError, match="is a classifier trained by 'classify'"):
        load_generator(tmp_path / "m.safetensors")


def test_other_networks_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a Linear cannot be saved"):
        save_checkpoint(tmp_path / "m.safetensors", nn.Linear(1, 1), method="cut")


@pytest.mark.parametrize("mpp", [0.0, -1.0, 466.0, float("nan")])
def test_a_resolution_out_of_range_is_refused(tmp_path: Path, mpp: float) -> None:
    with pytest.raises(InputError, match=r"per pixel is out of range; expected 0\.05 to 10"):
        save_checkpoint(tmp_path / "m.safetensors", NETWORKS[0], method="cut", mpp=mpp)


def test_a_full_disk_keeps_the_checkpoint_that_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def half_then_full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_then_full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(saved, NETWORKS[1], method="cut")
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@given(st.data())
def test_a_file_cut_short_anywhere_is_refused(saved: Path, data: st.DataObject) -> None:
    whole = saved.read_bytes()
    short = saved.with_name("short.safetensors")
    short.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match="cut short"):
        load_checkpoint(short)
    with pytest.raises(CheckpointError, match="cut short"):
        read_info(short)


@given(st.data())
def test_a_flipped_bit_anywhere_in_the_weights_is_noticed(saved: Path, data: st.DataObject) -> None:
    contents = bytearray(saved.read_bytes())
    (header,) = struct.unpack("<Q", contents[:8])
    contents[data.draw(st.integers(8 + header, len(contents) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = saved.with_name("damaged.safetensors")
    damaged.write_bytes(contents)
    with pytest.raises(CheckpointError, match="is damaged: its weights differ"):
        load_checkpoint(damaged)


def as_saved_with(change: Callable[[dict[str, object]], object]) -> bytes:
    """A file whose header was changed after it was saved."""
    network = NETWORKS[0]
    header: dict[str, object] = {
        "format": 1,
        "kind": "generator",
        "network": network.config.model_dump(),
        "parameters": 1,
        "sha256": "0",
        "method": "cut",
        "created": "2026-01-01T00:00:00Z",
        "versions": {"restain": "9.9", "torch": "9"},
    }
    change(header)
    return safetensors.torch.save({"a": torch.zeros(1)}, {"restain": json.dumps(header)})


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "not a restain checkpoint, or cut short"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a restain checkpoint"),
        (b"PK\x03\x04" + bytes(100), "is a PyTorch file.*restain import"),
        (pickle.dumps({"a": 1}, protocol=2), "is a PyTorch file"),
        (safetensors.torch.save({"a": torch.zeros(1)}), "is a safetensors file, but not one of restain's"),
        (safetensors.torch.save({"a": torch.zeros(1)}, {"restain": "{"}), "its header is not a restain header"),
        (safetensors.torch.save({"a": torch.zeros(1)}, {"restain": "[]"}), "its header is not a restain header"),
        (as_saved_with(lambda header: header.pop("sha256")), "its header is not a restain header"),
        (as_saved_with(lambda header: header.update(kind="toaster")), "its header is not a restain header"),
        (as_saved_with(lambda header: header.update(format=2)), r"has format 2, saved by restain 9\.9; .* upgrade it"),
    ],
)
def test_foreign_and_newer_files_are_refused(tmp_path: Path, contents: bytes, words: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match=words):
        read_info(path)


def with_header(saved: Path, **changes: object) -> Path:
    """The same file with another header of restain's; a change of `network` is one of its settings."""
    whole = saved.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    outer = json.loads(whole[8 : 8 + length])
    own = json.loads(outer["__metadata__"]["restain"])
    own["network"] |= changes.pop("network", {})
    outer["__metadata__"]["restain"] = str(changes.pop("text", "")) or json.dumps(own | changes)
    header = json.dumps(outer).encode()
    saved.write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + length :])
    return saved


@pytest.mark.parametrize(
    "change",
    [{"width": 4000}, {"width": 10**30}, {"downsamplings": 12}, {"blocks": 100}, {"blocks": 10**9}, {"width": "x"}],
)
def test_a_header_that_claims_a_giant_is_refused_in_a_line_before_it_is_built(
    saved: Path, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    empty = torch.empty

    def watched(*size: Any, **options: Any) -> Tensor:
        nonlocal largest
        made = empty(*size, **options)
        largest = max(largest, made.numel())
        return made

    with_header(saved, network=change)
    monkeypatch.setattr(torch, "empty", watched)
    with pytest.raises(
        CheckpointError, match=r"its weights do not fit the generator that its header describes"
    ) as told:
        load_checkpoint(saved)
    assert len(str(told.value)) < 400
    assert largest < 10**6


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", "null", '{"format": "1"}', '{"format": 1}'])
def test_a_header_that_is_something_else_is_refused_in_a_line(saved: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match="is not a restain header") as told:
        read_info(with_header(saved, text=text))
    assert len(str(told.value)) < 400


@pytest.mark.parametrize("mpp", [-1, 0, 1e-300, 1e300, float("nan")])
def test_a_header_with_an_impossible_resolution_is_refused(saved: Path, mpp: float) -> None:
    with pytest.raises(CheckpointError, match="is not a restain header"):
        read_info(with_header(saved, mpp=mpp))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        read_info(tmp_path / "m.safetensors")


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    info = read_info(saved)
    weights = safetensors.torch.load_file(saved)
    for network in ({**info.network, "width": 3}, {**info.network, "width": -1}):
        header = info.model_copy(update={"network": network}).model_dump_json()
        saved.write_bytes(safetensors.torch.save(weights, {"restain": header}))
        with pytest.raises(CheckpointError, match="do not fit the generator that its header describes"):
            load_checkpoint(saved)


def test_the_unet_of_an_earlier_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Its first and its innermost convolution had a bias."""
    path = tmp_path / "pix2pix.safetensors"
    info = save_checkpoint(path, UNet(UNetConfig(width=2, depth=3)), method="pix2pix")
    weights = safetensors.torch.load_file(path)
    weights |= {"down.0.bias": torch.zeros(2), "down.2.1.bias": torch.zeros(8)}
    header = info.model_copy(update={"sha256": fingerprint(weights)}).model_dump_json()
    path.write_bytes(safetensors.torch.save(weights, {"restain": header}))
    with pytest.raises(CheckpointError, match=r"pix2pix.safetensors: .*have also down.0.bias, down.2.1.bias; .*again"):
        load_checkpoint(path)


def test_a_misfit_is_named() -> None:
    layer = nn.Linear(2, 3)
    fitting = layer.state_dict()
    assert misfit(layer, fitting) == ""
    assert "lack bias" in misfit(layer, {"weight": fitting["weight"]})
    assert "have also more" in misfit(layer, {**fitting, "more": torch.zeros(1)})
    assert "bias has the shape 4 instead of 3" in misfit(layer, {**fitting, "bias": torch.zeros(4)})


def test_weights_of_a_failed_training_are_refused(tmp_path: Path) -> None:
    network = Generator(GeneratorConfig(width=2, blocks=1, spectral_norm=False))
    nn.init.constant_(network.get_parameter("stages.down1.bias"), float("nan"))
    save_checkpoint(tmp_path / "m.safetensors", network, method="cut")
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="does not exist; a checkpoint"):
        read_info(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="is a folder; a checkpoint is one file"):
        read_info(tmp_path)


def test_an_unknown_key_of_a_later_version_does_no_harm(saved: Path) -> None:
    info, weights = read_info(saved), safetensors.torch.load_file(saved)
    header = json.dumps({**info.model_dump(mode="json"), "mood": "good"})
    saved.write_bytes(safetensors.torch.save(weights, {"restain": header}))
    assert load_checkpoint(saved)[1] == info
    assert isinstance(info, CheckpointInfo)
