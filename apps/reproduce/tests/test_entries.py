"""Every result of the thesis has one entry, and every command is one that the packages take."""

import dataclasses
import re

import pytest
from pellucid.core.command_lines import check, takes
from pellucid.core.errors import OptionError
from pellucid.reproduce.entries import ENTRIES, PACKAGES, find, of_package

_FIGURES = {3: "1-5", 4: "1-5", 5: "2-5,7-15", 6: "1,3-6", 7: "2-5", 8: "2-6", 9: "1,2,4-9", 11: "1-12"}
_TABLES = ("3.1", "7.1", "7.2", "7.3", "9.1", "9.2", "11.1", "11.4", "11.5", "11.6")


def _numbers(text: str) -> list[int]:
    ends = [part.split("-") for part in text.split(",")]
    return [number for part in ends for number in range(int(part[0]), int(part[-1]) + 1)]


def test_every_result_of_the_thesis_has_one_entry() -> None:
    figures = [f"figure-{chapter}.{number}" for chapter, text in _FIGURES.items() for number in _numbers(text)]
    tables = [f"table-{number}" for number in _TABLES]
    assert len(figures) == 57
    assert len(tables) == 10
    assert sorted(entry.id for entry in ENTRIES) == sorted([*figures, *tables])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_every_command_is_one_that_the_packages_take(entry) -> None:
    for step in entry.zoo.steps if entry.zoo else ():
        check(step.argv)
    for argv in entry.paper.argvs if entry.paper else ():
        check(argv)
        words = " ".join(argv)
        assert "--out {out}" in words
        assert "zoo:" not in words.replace("zoo:mnist5k", "")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_an_entry_is_whole(entry) -> None:
    assert (entry.zoo is not None and entry.paper is not None) or entry.why_not
    if entry.zoo is None:
        return
    names = [step.name for step in entry.zoo.steps]
    assert len(names) == len(set(names))
    assert {number.step for number in entry.zoo.numbers} <= {step.name for step in entry.zoo.steps if step.reports}
    assert re.search(r"\d|one|seed", entry.zoo.n)
    # Whatever a step reads was made by a step before it.
    for place, step in enumerate(entry.zoo.steps):
        for used in re.findall(r"\{out\}/([\w.-]+?)(?:\.jsonl)?(?=[/,\s]|$)", " ".join(step.argv)):
            assert used in [*names[: place + 1], "vit-store"], (step.name, used)


def test_steps_of_one_name_are_one_step() -> None:
    steps: dict = {}
    for entry in ENTRIES:
        for step in entry.zoo.steps if entry.zoo else ():
            assert steps.setdefault(step.name, step) == step
    assert sum(step.seconds for step in steps.values()) < 2 * 3600


def test_lines_that_cannot_run_are_refused() -> None:
    for line in (["nowhere"], ["influence", "score"], ["influence", "score", "--out", "x", "--nothing"]):
        with pytest.raises(OptionError):
            check(line)
    assert takes(["influence", "truth", "--out", "x"], "--address")
    assert not takes(["influence", "score", "--out", "x"], "--address")


def test_entries_are_found() -> None:
    assert find("fig-3.2") is find("3.2") is find("figure-3.2")
    assert {entry.package for entry in of_package("vit")} == {"vit"}
    assert len(PACKAGES) == 7
    for wrong in (lambda: find("figure-1.1"), lambda: of_package("zoo")):
        with pytest.raises(OptionError):
            wrong()
    with pytest.raises(dataclasses.FrozenInstanceError):
        ENTRIES[0].id = "other"  # type: ignore[misc]
