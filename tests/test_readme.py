"""Every command of the README and the documentation is one that restain understands; the README's example runs."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from restain.cli import app
from restain.training import load_recipe

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `restain ...`, also by its path or as a module, in a page's shell blocks."""
    shell = [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "bash"]
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    found = []
    for words in (shlex.split(line, comments=True) for line in lines):
        calls = [place for place, word in enumerate(words) if Path(word).name in {"restain", "restain.cli"}]
        found += [words[place + 1 :] for place in calls]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_verbs_options_and_recipes_that_exist(page: Path, verbs: dict[str, Any]) -> None:
    for words in commands(page):
        verb = next((verb for verb in (" ".join(words[:2]), words[0]) if verb in verbs), None)
        assert verb is not None, f"restain {words[0]} does not exist"
        arguments = words[len(verb.split()) :]
        options = {name for parameter in verbs[verb].params for name in parameter.opts + parameter.secondary_opts}
        unknown = [word for word in arguments if word.startswith("-") and word.partition("=")[0] not in options]
        assert not unknown, f"restain {verb} has no {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_of_trainings_fit_their_recipes(page: Path) -> None:
    for recipe, settings in trainings(page):
        load_recipe(recipe, settings)


def trainings(page: Path) -> list[tuple[str, list[str]]]:
    """The recipe and the settings of each training in a page's shell blocks."""
    return [
        (words[1], [value for option, value in pairwise(words) if option == "--set"])
        for words in commands(page)
        if words[0] == "train"
    ]


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four commands that need no data, one after the other, on fewer and smaller tiles and for fewer steps."""
    models = [f"{side}_{kind}" for side in ("he", "ihc") for kind in ("autoencoder", "classifier")]
    shorter = {
        "phantom": ["--size", "128"],
        "train": [
            "--steps",
            "2",
            *(word for name in models for word in ("--set", f"auxiliary.{name}.training.steps=1")),
        ],
    }
    monkeypatch.chdir(tmp_path)
    lines = commands(ROOT / "README.md")
    start = next(place for place, words in enumerate(lines) if words[0] == "phantom")
    assert [words[0] for words in lines[start : start + 4]] == ["phantom", "train", "stain", "evaluate"]
    for verb, *arguments in lines[start : start + 4]:
        app([verb, *arguments, *shorter.get(verb, [])], standalone_mode=False)
    assert (tmp_path / "report" / "evaluation.json").is_file()
