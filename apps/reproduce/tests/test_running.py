"""Steps run once, runs go on where they stopped, and numbers are those of result.json."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from pellucid.core.cli import main
from pellucid.core.errors import DataError
from pellucid.reproduce.entries import ENTRIES
from pellucid.reproduce.entry import Entry, Number, Zoo, step
from pellucid.reproduce.picking import Found, pick
from pellucid.reproduce.results_page import results_page
from pellucid.reproduce.running import outcomes, run_entry

_SHARED = step("shared", "influence score --top 1", 1)
_OWN = step("own", "influence score --top 2 --data {out}/shared", 1)


def _entry(name: str, steps: Sequence = (_SHARED,), place: tuple = ("found",)) -> Entry:
    numbers = (Number("ours", steps[-1].name, place),)
    zoo = Zoo(tuple(steps), "one, seed 0", numbers, lambda ours: ours["ours"].number > 0)
    return Entry(name, "a test", "influence", "positive", zoo, None, why_not="a test")


class _Fake:
    """Writes the result.json that a command would, and remembers what it ran."""

    def __init__(self, *, broken: str = "") -> None:
        self.ran: list[str] = []
        self.broken = broken

    def __call__(self, argv: Sequence[str]) -> tuple[int, str]:
        out = Path(argv[argv.index("--out") + 1])
        self.ran.append(out.name)
        if out.name == self.broken:
            return 2, "pellucid: broken on purpose"
        out.mkdir(parents=True)
        found = {"found": {"value": 0.5, "low": 0.4, "high": 0.6}}
        (out / "result.json").write_text(json.dumps({"results": found, "device": "cpu", "seed": 3}))
        return 0, ""


def test_steps_are_shared_and_kept(tmp_path: Path) -> None:
    run = _Fake()
    first = run_entry(_entry("figure-3.1"), tmp_path, run=run)
    run_entry(_entry("figure-3.2", (_SHARED, _OWN)), tmp_path, run=run)
    again = run_entry(_entry("figure-3.1"), tmp_path, run=run)
    assert run.ran == ["shared", "own"]
    assert again == first
    assert first.numbers == {"ours": "0.5 [0.4, 0.6]"}
    assert (first.verdict, first.device, first.seeds) == ("carries over", "cpu", "3")
    assert set(outcomes(tmp_path)) == {"figure-3.1", "figure-3.2"}


def test_what_fails_is_told_and_tried_again_the_next_time(tmp_path: Path) -> None:
    run, failed = _Fake(broken="shared"), {}
    first = run_entry(_entry("figure-3.1"), tmp_path, run=run, failed=failed)
    second = run_entry(_entry("figure-3.2", (_SHARED, _OWN)), tmp_path, run=run, failed=failed)
    assert run.ran == ["shared"]
    assert first.verdict == second.verdict == "failed"
    assert "broken on purpose" in second.failed
    mended = _Fake()
    assert run_entry(_entry("figure-3.1"), tmp_path, run=mended).verdict == "carries over"
    assert mended.ran == ["shared"]


def test_a_changed_command_is_run_again(tmp_path: Path) -> None:
    run_entry(_entry("figure-3.1"), tmp_path, run=_Fake())
    run = _Fake()
    other = step("shared", "influence score --top 9 --out {out}/else", 1)
    run_entry(_entry("figure-3.1", (other,)), tmp_path, run=run)
    assert run.ran == ["else"]


def test_a_data_set_that_was_cut_off_is_written_anew(tmp_path: Path) -> None:
    data = step("data", "zoo dataset groups --train 0 --validation 0 --test 2 --out {out}/data", 1, reports=False)
    own = step("own", "influence score --data {out}/data", 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "annotations.csv").write_text("half of it")
    fake = _Fake()

    def run(argv: Sequence[str]) -> tuple[int, str]:
        return (main(list(argv)), "") if argv[0] == "zoo" else fake(argv)

    for _ in range(2):
        assert run_entry(_entry("figure-3.1", (data, own)), tmp_path, run=run).verdict == "carries over"
    assert (tmp_path / "data" / "images").is_dir()
    assert not (tmp_path / "data" / "annotations.csv").exists()


def test_an_address_goes_to_commands_that_take_one(tmp_path: Path) -> None:
    seen = []
    fake = _Fake()

    def run(argv: Sequence[str]) -> tuple[int, str]:
        seen.append("--address" in argv)
        return fake(argv)

    steps = (_SHARED, step("far", "influence truth", 1))
    run_entry(_entry("figure-3.1", steps), tmp_path, "auto", run)
    assert seen == [False, True]


def test_a_missing_number_is_a_failure_of_that_entry(tmp_path: Path) -> None:
    found = run_entry(_entry("figure-3.1", place=("nowhere",)), tmp_path, run=_Fake())
    assert found.verdict == "failed"
    assert "'nowhere'" in found.failed


def test_numbers_are_picked() -> None:
    results = {"rows": [{"a": 1, "x": 0.25}, {"a": 2, "x": {"value": 1.0, "low": 0.5, "high": 2.0}}], "one": {"k": 7}}
    assert pick(results, ("rows", {"a": 1}, "x")) == Found(0.25)
    assert str(pick(results, ("rows", {"a": 2}, "x"))) == "1 [0.5, 2]"
    assert pick(results, ("one", ...)).number == 7
    assert pick(results, ("rows", len)).value == 2
    assert str(Found([0.5, 2])) == "0.5, 2"
    for place in (("rows", {"a": 3}), ("none",), ("rows", 5), ("rows", ...)):
        with pytest.raises(DataError):
            pick(results, place)


def test_the_page_has_ours_beside_the_thesiss(tmp_path: Path) -> None:
    run_entry(_entry("figure-3.1"), tmp_path, run=_Fake())
    page = results_page(ENTRIES, outcomes(tmp_path))
    assert "| ours | 0.5 [0.4, 0.6] |" not in page.split("## Not run")[1]
    assert "0.5 [0.4, 0.6]" in page
    assert "**carries over**" in page
    assert "figure-11.12" in page.split("## Not run")[1]
    assert str(tmp_path) not in page


def test_an_entry_runs_for_real(tmp_path: Path) -> None:
    small = step("small", "influence truth --data iris --groups random --fractions 0.1 --count 4", 5)
    place = ("agreement", {"method": "first", "kind": "random", "fraction": None}, "relative_error")
    entry = _entry("figure-3.1", (small,), place)
    found = run_entry(entry, tmp_path)
    assert found.failed == ""
    written = json.loads((tmp_path / "small/result.json").read_text())["results"]
    assert found.numbers["ours"] == str(pick(written, place))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pellucid.reproduce.cli import app
    from typer.testing import CliRunner

    listed = CliRunner().invoke(app, ["--list", "--package", "vit"])
    assert listed.exit_code == 0
    assert "table-7.3" in listed.output
    assert "hours" in CliRunner().invoke(app, ["--list", "--scale", "paper", "--package", "vit"]).output
    paper = CliRunner().invoke(app, ["table-7.3", "--scale", "paper"])
    assert paper.exit_code == 0
    assert "pellucid vit debias" in paper.output
    assert CliRunner().invoke(app, []).exit_code != 0
    assert main(["--version"]) == 0
    capsys.readouterr()
