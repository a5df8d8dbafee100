"""The frame of the command line: what it says when something is wrong."""

import signal
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from restain import cli
from restain.errors import MissingError


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit status of `restain ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["restain", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def with_verb(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Give the command line a single verb, `fail`, that raises `error`."""
    app = typer.Typer()

    @app.callback()
    def nothing() -> None:
        """A callback makes the one command a verb."""

    @app.command("fail")
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)


def test_refusal_is_one_line_and_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_verb(monkeypatch, MissingError("pairs/ has no folder he;\n  give the folder that holds he/ and ihc/"))
    assert run(monkeypatch, "fail") == 1
    printed = capsys.readouterr()
    assert printed.err == "restain: pairs/ has no folder he; give the folder that holds he/ and ihc/\n"
    assert printed.out == ""


def test_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    with_verb(monkeypatch, KeyboardInterrupt())
    assert run(monkeypatch, "fail") == 130


def test_stopped_long_work_says_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("restain.demo.run.run_demo", stop)
    assert run(monkeypatch, "demo") == 130
    assert "run the same command to resume" in capsys.readouterr().err
    assert cli.STOPPED.keys() <= {
        *cli.VERBS,
        *(f"{word} {verb}" for word, (_, verbs) in cli.GROUPS.items() for verb in verbs),
    }


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_signal_that_asks_to_stop_is_answered_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = getattr(signal, name)
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # whatever started the tests may ignore it
    try:
        monkeypatch.setattr("restain.checkpoint.read_info", lambda _: signal.raise_signal(number))
        assert run(monkeypatch, "info", str(tmp_path / "m.safetensors")) == 128 + number
        assert "run the same command" in capsys.readouterr().err
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:

        def go_on(path: Path) -> None:
            signal.raise_signal(signal.SIGHUP)
            raise MissingError(f"{path} was looked for")

        monkeypatch.setattr("restain.checkpoint.read_info", go_on)
        assert run(monkeypatch, "info", str(tmp_path / "m.safetensors")) == 1
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with_verb(monkeypatch, ZeroDivisionError("a bug"))
    monkeypatch.setattr(sys, "argv", ["restain", "fail"])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main()


def test_unknown_verb_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "strain") == 2
    assert "strain" in capsys.readouterr().err


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == version("restain")


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["stain", "", "--model", "m", "--out", "o"], "after stain"),
        (["train", "cut-tiny", "--data", " "], "after --data"),
    ],
)
def test_an_empty_path_is_not_the_working_directory(
    arguments: list[str], place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 1
    assert f"{place} is empty" in capsys.readouterr().err
