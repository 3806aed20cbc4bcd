"""The tour's own plumbing, and its chapters at a smaller size."""

import json

import pytest
from pellucid.core.cli import main
from pellucid.core.errors import OptionError
from pellucid.tour.chapters import circuits
from pellucid.tour.tour import CHAPTERS, run_tour


def test_unknown_chapters_are_named(tmp_path):
    with pytest.raises(OptionError, match=r"no chapter 'poetry': choose from .*circuits"):
        run_tour(tmp_path, ["poetry"])


def test_every_chapter_is_a_module_with_run():
    import importlib

    for name in CHAPTERS:
        assert callable(importlib.import_module(f"pellucid.tour.chapters.{name}").run)


@pytest.mark.slow
def test_the_command_writes_one_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(circuits, "PROBES", (1, 6))
    words = ["tour", "--only", "circuits", "--workers", "0", "--full", "--out", str(tmp_path / "tour"), "--json"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "tour" / "result.json").read_text())
    assert printed["results"]["circuits"]["probes"]["kept"] == 6
    page = (tmp_path / "tour" / "report.html").read_text()
    assert page.count("<img") == 2
    assert 'src="http' not in page  # nothing is fetched
