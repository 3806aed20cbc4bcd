"""What an entry is: a figure or table of the thesis, the commands that redo it, and which of their numbers it shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from .picking import Found

Place = str | int | Mapping[str, Any] | EllipsisType | Callable[[Any], Any]


@dataclass(frozen=True)
class Step:
    """One `pellucid` command. Entries that name an equal step share its run.

    Attributes:
        name: of the step among all, and of its folder in the folder of runs.
        argv: the words after `pellucid`; `{out}` stands for the folder of runs, so that `{out}/NAME` is what the step
            of that name wrote.
        seconds: about how long it takes on two processor cores.
        reports: whether it writes `{out}/NAME/result.json`.
    """

    name: str
    argv: tuple[str, ...]
    seconds: int
    reports: bool = True


@dataclass(frozen=True)
class Number:
    """One number of ours.

    Attributes:
        what: a few words.
        step: the name of the step whose result.json holds it.
        place: the way to it under `results`; see `picking.pick`.
    """

    what: str
    step: str
    place: tuple[Place, ...]


@dataclass(frozen=True)
class Zoo:
    """An entry at the scale of the zoo: small real models, two processor cores, minutes.

    Attributes:
        steps: in their order.
        n: how many of what, and the seeds.
        numbers: what is set beside the thesis's.
        carries: from the numbers by `what`, whether the thesis's finding is seen; None where only the eye can tell,
            or where there is nothing to decide it by. It returns None where the numbers leave it open.
    """

    steps: tuple[Step, ...]
    n: str
    numbers: tuple[Number, ...]
    carries: Callable[[Mapping[str, Found]], bool | None] | None = None


@dataclass(frozen=True)
class Paper:
    """An entry at the thesis's own scale.

    Attributes:
        argvs: the words after each `pellucid`; `{out}` as in a step, `{data}` a folder with what `data` names.
        models: to have, by hub id.
        data: to have.
        hardware: what it needs at least.
        hours: on that hardware; an estimate, unless it says otherwise.
    """

    argvs: tuple[tuple[str, ...], ...]
    models: str
    data: str
    hardware: str
    hours: str


@dataclass(frozen=True)
class Entry:
    """One figure or table of the thesis.

    Attributes:
        id: such as "figure-3.1" or "table-7.1".
        shows: what it shows.
        package: whose commands redo it.
        thesis: its numbers and its finding.
        zoo: at the zoo's scale; None where there is no command yet.
        paper: at the thesis's scale; None where there is no command yet.
        differs: in what ours is another thing than the thesis's.
        why_not: what is missing, where `zoo` or `paper` is None.
    """

    id: str
    shows: str
    package: str
    thesis: str
    zoo: Zoo | None
    paper: Paper | None
    differs: str = ""
    why_not: str = ""


def words(text: str) -> tuple[str, ...]:
    """The words of a command line; quotes hold words together, as in a shell."""
    import shlex

    return tuple(shlex.split(text))


def step(name: str, command: str, seconds: int, *, reports: bool = True) -> Step:
    """A step from its command line; ` --out {out}/NAME` is added where no `--out` is given."""
    line = command if "--out " in command else f"{command} --out {{out}}/{name}"
    return Step(name, words(line), seconds, reports)
