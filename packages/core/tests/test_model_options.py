"""Options that commands share come from one place, in the order: the command's own, the model's, the workers'."""

from typing import Annotated

import pytest
import typer
from pellucid.core.errors import OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running, takes_model
from typer.testing import CliRunner


def test_a_command_gets_its_model_and_workers() -> None:
    app, got = typer.Typer(), {}

    @app.command()
    @takes_model
    def look(
        spec: ModelSpec, running: Running, n: Annotated[int, typer.Option("-n", min=1)], deep: bool = False
    ) -> None:
        """Look at a model."""
        got.update(spec=spec, running=running, n=n, deep=deep)

    words = "-n 3 --deep --model zoo:x --max-memory cpu=8GB --workers 2 --gpus 0.5 --quantize nf4"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    assert got == {
        "spec": ModelSpec("zoo:x", quantize="nf4", max_memory={"cpu": "8GB"}),
        "running": Running(workers=2, gpus=0.5),
        "n": 3,
        "deep": True,
    }
    assert got["spec"].max_memory == {"cpu": "8GB"}
    assert "Look at a model." in CliRunner().invoke(app, ["--help"]).output


def test_without_workers_there_are_no_options_for_them() -> None:
    app = typer.Typer()

    @app.command()
    @takes_model
    def look(spec: ModelSpec) -> None:
        """Look."""

    assert CliRunner().invoke(app, ["--model", "zoo:x", "--workers", "2"]).exit_code == 2
    assert isinstance(CliRunner().invoke(app, ["--model", "zoo:x", "--max-memory", "8GB"]).exception, OptionError)
    with pytest.raises(OptionError, match="empty"):
        app(["--model", ""], standalone_mode=False)
