"""House rules that a machine can check: files that can be read in one go, and nothing of anybody's machine in them."""

import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:work|root|tmp|home|opt|Users)/\w")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError|set_default_device|manual_seed_all)\b|\.cuda\(")


def tracked(project: Path, *patterns: str) -> list[Path]:
    """Files under version control, or all files where the project came without it."""
    run = subprocess.run(["git", "ls-files", "--", *patterns], cwd=project, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip("not a git checkout")
    return [project / name for name in run.stdout.splitlines() if (project / name).is_file()]


def test_no_python_file_is_longer_than_one_reads_in_one_go(project: Path) -> None:
    long = {
        str(file): lines for file in tracked(project, "*.py") if (lines := len(file.read_text().splitlines())) > 400
    }
    assert not long


def test_no_text_file_names_a_place_on_somebodys_machine(project: Path) -> None:
    suffixes = {".py", ".md", ".toml", ".yml", ".cff", ".html", ".css", ".json", ""}
    files = [file for file in tracked(project) if file.suffix in suffixes and file != Path(__file__)]
    found = [str(file) for file in files if MACHINE_PATH.search(file.read_text(encoding="utf-8"))]
    assert not found


def test_nothing_is_left_unfinished(project: Path) -> None:
    found = [str(file) for file in tracked(project, "restain/*.py") if UNFINISHED.search(file.read_text())]
    assert not found


def test_no_large_file_is_carried(project: Path) -> None:
    limits = {".safetensors": 10_000_000}  # the weights that come with the package
    sizes = {file: file.stat().st_size for file in tracked(project)}
    assert not {str(file): size for file, size in sizes.items() if size > limits.get(file.suffix, 2_000_000)}


FLAG = re.compile(r"(?<![\w-])--[a-z]")


def test_only_the_command_line_speaks_of_its_options(project: Path) -> None:
    """The library names fields and values; `demo` shows the commands that it stands for."""
    speaking = {
        str(file.relative_to(project)): FLAG.findall(text)
        for file in tracked(project, "restain/*.py")
        if file.relative_to(project).parts[1] not in ("cli", "demo") and FLAG.search(text := file.read_text())
    }
    assert not speaking


TYPE_NAME = re.compile(r"[A-Z]+[a-z]\w*|RGB")


def public_types(file: Path) -> set[str]:
    """Classes and type aliases that a module defines itself."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in found if TYPE_NAME.fullmatch(name)}


def test_no_name_stands_for_two_types(project: Path) -> None:
    modules: defaultdict[str, list[str]] = defaultdict(list)
    for file in tracked(project, "restain/*.py"):
        for name in public_types(file):
            modules[name].append(str(file.relative_to(project)))
    assert len(modules) > 200
    assert not {name: files for name, files in modules.items() if len(files) > 1}
