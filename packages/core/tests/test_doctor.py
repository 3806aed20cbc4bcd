"""`pellucid doctor` on this installation, and on one that lacks things."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from pellucid.core import doctor
from pellucid.core.cli import main


def test_it_tells_what_is_here(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "models--one--model").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["pellucid-core"] == importlib.metadata.version("pellucid-core")
    assert found["cached"] == ["one/model"]
    assert "processor threads" in found["devices"][0]
    assert main(["doctor"]) == 0
    assert "pellucid-core" in capsys.readouterr().out


def test_it_names_what_is_missing_and_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        requires = ("torch>=2", "no-such-library>=1; extra == 'fancy'", "torch; extra == 'plain'")

    class Command:
        name = "poetry"

        def load(self) -> None:
            raise ImportError("no rhyme")

    assert doctor._extras(Package()) == [("fancy", ["no-such-library"])]  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Command()])
    found = doctor.examine()
    assert found["broken"] == {"poetry": "ImportError: no rhyme"}
    assert any("poetry cannot be loaded" in line for line in doctor.lines(found))
