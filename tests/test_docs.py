"""The documentation says what is true: every setting with its default, every method, an example that learns."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup
from typer.main import get_command

from restain.cli import app
from restain.data.augment import Augment
from restain.data.pairs import Pair
from restain.methods import METHODS
from restain.methods.base import Method, Progress
from restain.training.config import DataConfig, TrainingConfig

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [
    ("training.md", DataConfig),
    ("training.md", TrainingConfig),
    ("training.md", Augment),
    ("methods/auxiliary.md", METHODS["reconstruct"].Config),
    ("methods/auxiliary.md", METHODS["classify"].Config),
    ("methods/pix2pix.md", METHODS["pix2pix"].Config),
    ("methods/cyclegan.md", METHODS["cyclegan"].Config),
    ("methods/pyramidp2p.md", METHODS["pyramidp2p"].Config),
    ("methods/tdkstain.md", METHODS["tdkstain"].Config),
    ("methods/cut.md", METHODS["cut"].Config),
    ("methods/asp.md", METHODS["asp"].Config),
    ("methods/pspstain.md", METHODS["pspstain"].Config),
    ("methods/simgan.md", METHODS["simgan"].Config),
    ("methods/segment.md", METHODS["segment"].Config),
    ("methods/vsmt.md", METHODS["vsmt"].Config),
    ("methods/registered.md", METHODS["registered"].Config),
]


def rows(page: str) -> dict[str, str]:
    """First and second cell of each table row that begins with a setting."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize(("page", "config"), PAGES)
def test_every_setting_is_on_its_page(page: str, config: type[BaseModel]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    missing = [name for name in config.model_fields if not re.search(rf"`\[?(\w+\.)?{name}\b", text)]
    assert not missing


@pytest.mark.parametrize(("page", "config"), PAGES)
def test_the_defaults_on_the_page_are_the_defaults(page: str, config: type[BaseModel]) -> None:
    said = rows(page)
    for name, field in config.model_fields.items():
        if name in said and said[name].startswith("`") and field.default is not PydanticUndefined:
            assert json.loads(said[name].strip("`")) == as_json(field.default), name


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_listed(name: str) -> None:
    assert f"`{name}`" in (DOCS / "methods/index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["stain", "stain-slides", "evaluate", "bench", "quantify", "demo"])
def test_every_option_is_in_the_documentation(verb: str) -> None:
    pages = [page for page in DOCS.rglob("*.md") if page.name != "commands.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    options = [option for one in command.commands[verb].params for option in one.opts if option.startswith("--")]
    assert not [option for option in options if not re.search(rf"{option}(?![\w-])", text)]


def test_the_command_reference_is_up_to_date() -> None:
    """If this fails: `python docs/make_commands.py`."""
    reference = runpy.run_path(str(DOCS / "make_commands.py"))["reference"]
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == reference()


def test_the_command_reference_has_every_command(verbs: dict[str, Any]) -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert {f"restain {verb}" for verb in verbs} == set(re.findall(r"^## (.*)$", page, re.MULTILINE))


def test_the_example_of_a_new_method_learns() -> None:
    page = (DOCS / "methods/adding.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert example is not None
    names: dict[str, Any] = {"__name__": "example"}
    exec(example[1], names)
    method: Method = names["Regress"](names["RegressConfig"](width=4))

    generator = torch.Generator().manual_seed(0)
    he, ihc = torch.rand(2, 2, 3, 32, 32, generator=generator) * 2 - 1
    pair = Pair(he, ihc, grade=torch.tensor([0, 1]), index=torch.tensor([0, 1]), names=("a", "b"))
    optimizers = method.optimizers()
    losses = [method.step(pair, optimizers, Progress(0, step, 8, 1))["generator/l1"].item() for step in range(8)]
    assert losses[-1] < losses[0]
    assert list(method.sample(pair)) == ["H&E", "virtual", "real neighbour"]
