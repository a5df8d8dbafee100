"""The walls of the house: imports go downwards, and help comes without the heavy libraries."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "numpy", "scipy", "matplotlib", "jinja2", "PIL", "torchvision")


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has imported after running `code`."""
    report = "import sys; print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def test_imports_go_downwards_only(project: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([lint, "--no-cache"], cwd=project, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def layers(project: Path) -> list[str]:
    contracts = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return next(contract["layers"] for contract in contracts if contract["type"] == "layers")


def test_the_page_about_the_house_shows_the_layers_that_are_checked(project: Path) -> None:
    page = (project / "docs" / "house.md").read_text(encoding="utf-8")
    shown = re.search(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert ["__main__", *shown[1].splitlines()] == layers(project)


def test_the_page_about_the_house_names_every_room(project: Path) -> None:
    page = (project / "docs" / "house.md").read_text(encoding="utf-8")
    rooms = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert rooms == set(re.findall(r"\w+", " ".join(layers(project)))) - {"__main__"}


def test_help_needs_no_heavy_library() -> None:
    code = "from restain.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass"
    assert loaded_after(code).isdisjoint(HEAVY)


def test_importing_the_package_costs_nothing() -> None:
    assert loaded_after("import restain").isdisjoint(HEAVY)


def test_every_public_name_exists() -> None:
    import restain

    for name in restain.__all__:
        assert getattr(restain, name)
    with pytest.raises(AttributeError, match="no attribute 'unstain'"):
        _ = restain.unstain


def test_running_needs_no_torchvision() -> None:
    everything = "from restain import evaluate, load_generator, stain, train\nfrom restain.methods import METHODS"
    assert "torchvision" not in loaded_after(everything)


def test_help_of_every_verb_is_one_sentence(verbs: dict[str, Any]) -> None:
    for verb, command in verbs.items():
        text = " ".join((command.help or "").split())
        assert text.endswith("."), verb
        assert text.count(". ") == 0, verb
        assert len(text) < 160, verb


def test_every_option_of_every_verb_is_explained(verbs: dict[str, Any]) -> None:
    silent = [
        f"{verb} {parameter.name}"
        for verb, command in verbs.items()
        for parameter in command.params
        if not parameter.help
    ]
    assert not silent
