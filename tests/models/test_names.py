"""The name of a packaged model stands for its checkpoint wherever one is read, and nothing writes into it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from restain.checkpoint import add_to_checkpoint, load_checkpoint, load_generator, read_info, read_weights
from restain.cli import app
from restain.errors import MissingError, OutputError
from restain.models import packaged_models
from restain.staining.model import load_model

NAME, MODEL = next(iter(packaged_models().items()))


def test_every_reader_of_checkpoints_knows_the_name() -> None:
    info = read_info(NAME)
    assert info == read_info(MODEL.weights) == load_checkpoint(NAME)[1] == read_weights(NAME)[0]
    assert load_generator(NAME).multiple == 4
    assert load_model(NAME).name == MODEL.weights.name


def test_a_model_of_the_package_is_not_changed(tmp_path: Path) -> None:
    before = MODEL.weights.read_bytes()
    for path in (Path(NAME), MODEL.weights):
        with pytest.raises(OutputError, match="copy"):
            add_to_checkpoint(path, {"familiarity": {}})
        refused = CliRunner().invoke(app, ["calibrate", "--model", str(path), "--data", str(tmp_path)])
        assert isinstance(refused.exception, OutputError)
    assert MODEL.weights.read_bytes() == before


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(MissingError, match=NAME):
        read_info("colon-panc")
