"""All comparisons in one go: resumed, honest about what fails, and one page from what lies there."""

import json
from collections.abc import Sequence
from pathlib import Path

from pellucid.bench.everything import COMMANDS, results_page, run_all
from pellucid.core.cli import main
from pellucid.core.command_lines import check

FEW = {"edits": ("edits", "--inner", "64", "-n", "1"), "broken": ("edits", "--threads", "0")}


def test_every_comparison_is_a_command() -> None:
    for words in COMMANDS.values():
        check(["bench", *words])


def test_what_went_well_is_kept_and_what_fails_is_told(tmp_path: Path) -> None:
    ran: list[str] = []

    def run(words: Sequence[str]) -> tuple[int, str]:
        ran.append(words[1])
        folder = Path(words[words.index("--out") + 1])
        if "0" in words:
            return 2, "no such peer: pip install it"
        (folder / "tables").mkdir(parents=True)
        (folder / "tables/rows.csv").write_text("peer,ratio\nours,1.23456\nits | own,2\n")
        result = {"summary": "Ours is 3 [2, 4] times as fast.", "seed": 0, "device": "cpu", "versions": {"torch": "2"}}
        (folder / "result.json").write_text(json.dumps(result))
        return 0, ""

    told: list[str] = []
    assert not run_all(tmp_path, told.append, FEW, run)
    assert ran == ["edits", "edits"]
    page = results_page(tmp_path, FEW)
    assert "Ours is 3 [2, 4] times as fast." in page
    assert "| ours | 1.235 |" in page
    assert "| its / own | 2 |" in page
    assert "Failed on" in page
    assert "no such peer: pip install it (`pellucid bench edits --threads 0`)" in page
    assert not run_all(tmp_path, told.append, FEW, run)  # only what failed is tried again
    assert ran == ["edits"] * 3
    assert any(line.startswith("edits: kept from") for line in told)
    assert results_page(tmp_path, {"edits": FEW["edits"]}) == results_page(tmp_path, {"edits": FEW["edits"]})
    assert "Not run." in results_page(tmp_path / "empty", FEW)


def test_without_a_comparison_there_is_help(capsys) -> None:
    assert main(["bench"]) == 0
    assert "--all" in capsys.readouterr().out
