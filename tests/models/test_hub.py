"""Models on the hub: fetched by address and published, against a stand-in of its interface; nothing leaves the machine.

What the client reads from the environment it reads once, so that each situation is a process of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from restain.checkpoint import load_checkpoint, read_info, save_checkpoint
from restain.checkpoint.card import card_of
from restain.cli import app
from restain.errors import InputError, MissingError
from restain.models import called, find_model
from restain.models.hub import Address
from restain.networks.generator import Generator, GeneratorConfig

pytest.importorskip("huggingface_hub")
sys.path.insert(0, str(Path(__file__).parent))
from hub_stand_in import Repository, StandIn, serving  # beside this file

PROGRAM = """
import sys
from pathlib import Path
from restain.errors import RestainError
from restain.models import find_model
from restain.models.hub import publish
verb, *arguments = sys.argv[1:]
try:
    print(find_model(*arguments) if verb == "find" else publish(Path(arguments[0]), *arguments[1:3], private=True))
except RestainError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=4, blocks=1, norm="batch", spectral_norm=False))
    save_checkpoint(path, generator, method="registered", stain="Ki67", mpp=0.5, extra={"licence": "MIT"})
    return path


@pytest.fixture
def hub(weights: Path) -> Iterator[StandIn]:
    with serving() as server:
        repository = Repository()
        repository.commit({"model.safetensors": weights.read_bytes(), "README.md": b"# mine"}, "v1")
        server.repositories["lab/mine"] = repository
        yield server


@pytest.fixture
def run(hub: StandIn, tmp_path: Path) -> Run:
    """Run `PROGRAM` in a process that knows no hub but the stand-in."""

    def process(*arguments: object, **settings: str) -> "subprocess.CompletedProcess[str]":
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment = kept | {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        return subprocess.run(
            command, env=environment | settings, capture_output=True, text=True, timeout=120, check=False
        )

    return process


def test_addresses() -> None:
    assert Address.read("hf://lab/mine") == Address("lab/mine")
    assert Address.read(Path("hf://lab/mine@v1")) == Address("lab/mine", "v1")
    assert Address.read("hf://lab/mine@refs/pr/1") == Address("lab/mine", "refs/pr/1")
    assert str(Address("lab/mine", "v1")) == "hf://lab/mine@v1"
    for path in ("colon-panck", "runs/model.safetensors", "./hf/model.safetensors"):
        assert Address.read(path) is None
    for wrong in ("hf://mine", "hf://lab/mine/model.bin", "hf://lab/mine@", "hf://../mine", "hf:lab/mine", "hf:///"):
        with pytest.raises(InputError, match="owner/name"):
            find_model(wrong)


def test_a_model_is_fetched_once_and_then_found_without_a_network(run: Run, hub: StandIn, weights: Path) -> None:
    first = run("find", "hf://lab/mine@v1")
    assert first.returncode == 0, first.stderr
    assert Path(first.stdout.strip()).read_bytes() == weights.read_bytes()
    assert not [request for request in hub.requests if "resolve" in request and "model.safetensors" not in request]
    hub.repositories.clear()
    hub.requests.clear()
    again = run("find", "hf://lab/mine@v1", HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout, again.stderr
    assert not hub.requests


@pytest.mark.parametrize(
    ("address", "settings", "says"),
    [
        ("hf://lab/other", {}, ("hf://lab/other", "check the name")),
        ("hf://lab/mine@v9", {}, ("lab/mine", "v9", "tag")),
        ("hf://lab/empty", {}, ("hf://lab/empty", "model.safetensors")),
        ("hf://lab/secret", {}, ("hf://lab/secret", "HF_TOKEN")),
        ("hf://lab/mine", {"HF_HUB_OFFLINE": "1"}, ("hf://lab/mine", "cache", "connect")),
    ],
    ids=["no model", "no revision", "no weights", "private", "offline"],
)
def test_what_cannot_be_had_is_one_sentence(
    run: Run, hub: StandIn, address: str, settings: dict[str, str], says: tuple[str, ...]
) -> None:
    hub.repositories["lab/empty"] = Repository()
    hub.repositories["lab/empty"].commit({"pytorch_model.bin": b"\x80\x02pickle"})
    hub.repositories["lab/secret"] = Repository(private=True)
    hub.token = "right"
    found = run("find", address, **settings)
    assert found.returncode == 1
    line = found.stderr.strip().splitlines()[-1]
    assert line.startswith("MissingError: ")
    assert all(word in line for word in says), line
    assert not [request for request in hub.requests if "bin" in request]


def test_what_is_published_is_fetched_again(run: Run, hub: StandIn, weights: Path) -> None:
    hub.token = "right"
    refused = run("publish", weights, "# A card", "lab/new")
    assert refused.returncode == 1
    assert "OutputError" in refused.stderr
    assert "HF_TOKEN" in refused.stderr
    pushed = run("publish", weights, "# A card", "lab/new", HF_TOKEN="right")
    assert pushed.returncode == 0, pushed.stderr
    repository = hub.repositories["lab/new"]
    assert repository.private
    ((sha, files),) = repository.commits.items()
    assert pushed.stdout.strip().endswith(sha)
    assert files == {"model.safetensors": weights.read_bytes(), "README.md": b"# A card"}
    found = run("find", "hf://lab/new", HF_TOKEN="right")
    assert read_info(Path(found.stdout.strip())).sha256 == read_info(weights).sha256


def test_the_command_line_takes_addresses(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.full((32, 40, 3), 200, np.uint8)).save(tmp_path / "he.png")
    asked: list[Address] = []

    def fetch(address: Address) -> Path:
        asked.append(address)
        return weights

    monkeypatch.setattr("restain.models.fetch", fetch)
    stained = CliRunner().invoke(
        app, ["stain", str(tmp_path / "he.png"), "--model", "hf://lab/mine@v1", "--out", str(tmp_path / "out")]
    )
    assert stained.exit_code == 0, stained.output
    assert (tmp_path / "out/he.png").is_file()
    assert asked[0] == Address("lab/mine", "v1")


def test_push_publishes_whole_checkpoints_alone(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[tuple[Path, str, str]] = []

    def publish(path: Path, card: str, repository: str, **_: object) -> str:
        published.append((path, card, repository))
        return "a commit"

    monkeypatch.setattr("restain.models.hub.publish", publish)
    (tmp_path / "broken.safetensors").write_bytes(weights.read_bytes()[:-8])
    assert CliRunner().invoke(app, ["push", str(tmp_path / "broken.safetensors"), "lab/new"]).exit_code == 1
    assert not published
    (tmp_path / "card.md").write_text("# Mine\n\nOne scanner.")
    pushed = CliRunner().invoke(app, ["push", str(weights), "lab/new", "--card", str(tmp_path / "card.md")])
    assert pushed.exit_code == 0, pushed.output
    ((path, card, repository),) = published
    assert (path, repository) == (weights, "lab/new")
    assert "One scanner." in card


def test_the_card_has_front_matter_command_and_hash(weights: Path) -> None:
    info = load_checkpoint(weights)[1]
    front, _, body = card_of(info, "lab/mine", "restain stain hf://lab/mine").removeprefix("---\n").partition("---\n")
    facts: dict[str, Any] = {
        line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in front.splitlines() if ": " in line
    }
    assert facts == {"license": "mit", "library_name": "restain", "pipeline_tag": "image-to-image"}
    for words in ("# mine", "Ki67", info.sha256, "hf://lab/mine"):
        assert words in body
    assert "# My own" in card_of(info, "lab/mine", "", "# My own\n\nLimits.")


def test_results_are_named_after_the_model(tmp_path: Path) -> None:
    cached = tmp_path / "hub/models--lab--mine/snapshots/0123/model.safetensors"
    assert called(cached) == "lab--mine"
    assert called(tmp_path / "runs/first/model.safetensors") == "first"
    assert called(tmp_path / "colon.safetensors") == "colon"


def test_without_the_package_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"restain\[hub\]"):
        find_model("hf://lab/mine")


@pytest.mark.parametrize("error", [ConnectionError("no route"), TimeoutError()])
def test_a_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(MissingError, match=r"hf://lab/mine.*connect"):
        find_model("hf://lab/mine")
