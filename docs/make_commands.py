"""Write the command reference, docs/commands.md, from the command line itself: `python docs/make_commands.py`."""

from pathlib import Path
from typing import Any

from typer.main import get_command

from restain.cli import app

PAGE = Path(__file__).with_name("commands.md")
START = """\
# Command reference

Every command with its arguments and options, as in `restain COMMAND --help`. `python docs/make_commands.py` writes this
page.
"""


def commands(group: Any, words: str = "restain") -> list[tuple[str, Any]]:
    """Every command that can be run, by its words, in the order of `--help`; a group that runs by itself, too."""
    found = []
    for name, command in group.commands.items():
        whole = f"{words} {name}"
        if hasattr(command, "commands"):
            found += [(whole, command)] if command.invoke_without_command else []
            found += commands(command, whole)
        else:
            found.append((whole, command))
    return found


def cell(text: str) -> str:
    """The text on one line, its bars escaped, as a cell of a table needs it."""
    return " ".join(text.split()).replace("\\[", "[").replace("|", "\\|")


def default(parameter: Any) -> str:
    """The default as `--help` shows it: a word in place of the value where the command gives one."""
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    value = parameter.default
    if not parameter.show_default or value is None or callable(value) or isinstance(value, bool):
        return ""
    return f"`{getattr(value, 'value', value)}`"


def section(words: str, command: Any) -> str:
    """A heading, the sentence of the help, and one table of arguments and options."""
    shown = [parameter for parameter in command.params if not parameter.hidden and parameter.name != "help"]
    rows = ["| argument or option | default | meaning |", "|---|---|---|"] if shown else []
    for parameter in shown:
        if parameter.param_type_name == "argument":
            names = f"`{(parameter.metavar or parameter.name.upper()).strip('{}')}`"
        else:
            names = " / ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            names += f" `{parameter.metavar}`" if parameter.metavar else ""
        rows.append(f"| {cell(names)} | {cell(default(parameter))} | {cell(parameter.help or '')} |")
    return "\n".join([f"\n## {words}\n", cell(command.help or ""), *(["", *rows] if rows else [])]) + "\n"


def reference() -> str:
    """The whole page."""
    return START + "".join(section(words, command) for words, command in commands(get_command(app)))


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
