"""Probes: one question each, with a context that answers it, one that answers it otherwise, and a corrupted one."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pellucid.core.errors import DataError
from pellucid.core.jsonl import read_records, write_records

STAND_IN = "—"  # what takes the answer's place in the contexts of D_memory


@dataclass(frozen=True)
class Probe:
    """One example of D_copy, or of D_memory where `answer` is the original one (thesis section 8.3.1).

    Attributes:
        subject: whom or what the question is about.
        question: the question, which names the subject.
        original_answer: the true answer, which `context` gives.
        answer: the swapped answer, which only `modified_context` gives; a faithful model says this one. Of D_memory:
            the original answer, which no context but `context` gives.
        context: a text that answers the question truly.
        modified_context: the same text with the swapped answer, or a dash, in place of the original one.
        corrupted_context: the same text about another subject with another answer.
        corrupted_question: the question about that other subject.
        relation: the kind of fact, such as "capital"; empty where it is not known.
    """

    subject: str
    question: str
    original_answer: str
    answer: str
    context: str
    modified_context: str
    corrupted_context: str
    corrupted_question: str
    relation: str = ""

    @property
    def of_memory(self) -> bool:
        """Whether the model must remember the answer."""
        return self.answer == self.original_answer


def stands(phrase: str, text: str, *, any_case: bool = False) -> bool:
    """Whether a phrase stands in a text as whole words: "Niger" does not stand in "Nigeria"."""
    if any_case:
        phrase, text = phrase.casefold(), text.casefold()
    # The plain search is far quicker than the pattern and settles most cases.
    return phrase in text and re.search(_as_words(phrase), text) is not None


def swap(text: str, changes: Mapping[str, str]) -> str:
    """Replace whole-word phrases everywhere, all in one pass; of phrases within each other the longest wins."""
    pattern = "|".join(_as_words(phrase) for phrase in sorted(changes, key=len, reverse=True))
    return re.sub(pattern, lambda found: changes[found.group()], text)


def flaw(probe: Probe) -> str | None:
    """Tell what keeps a probe from being of use, or None.

    The swapped answer may be had from the modified context alone, the original one must be gone from it,
    and the corrupted pair may name neither the subject nor either answer. What must be absent is looked
    for in any case of letters ("Euro" for "euro"), what must be present only as it is written.
    """
    present = [(probe.original_answer, "context"), (probe.answer, "modified_context"), (probe.subject, "question")]
    absent = [
        (probe.original_answer, ("modified_context", "corrupted_context")),
        (probe.answer, ("question", "context", "corrupted_context", "corrupted_question")),
        (probe.subject, ("corrupted_context", "corrupted_question")),
    ]
    for phrase, field in present:
        if not stands(phrase, getattr(probe, field)):
            return f"{phrase!r} does not stand in {field}"
    for phrase, where in absent:
        for field in where:
            if stands(phrase, getattr(probe, field), any_case=True):
                return f"{phrase!r} stands in {field}"
    return None


def read_probes(path: str | Path) -> list[Probe]:
    """Read probes from a JSON Lines file: one object a line with the fields of `Probe` (`relation` may be left out).

    Fields that `Probe` does not have are ignored.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line is not a usable probe; the message names the
            file, the line and the field.
    """
    required = tuple(field.name for field in fields(Probe) if field.name != "relation")
    probes = []
    for where, record in read_records(path, required, ("relation",)):
        probe = Probe(**record)
        if probe.of_memory and stands(probe.answer, probe.modified_context):
            raise DataError(
                f"{where}: the original answer {probe.answer!r} stands in the field 'modified_context'; where the "
                "answer is to be remembered, that context must not give it"
            )
        if not probe.of_memory and not stands(probe.answer, probe.modified_context):
            raise DataError(
                f"{where}: the answer {probe.answer!r} does not stand in the field 'modified_context'; "
                "that context must state it, in the same letters"
            )
        if stands(probe.answer, probe.corrupted_context):
            raise DataError(
                f"{where}: the answer {probe.answer!r} stands in the field 'corrupted_context'; "
                "that context must be about another subject with another answer"
            )
        probes.append(probe)
    return probes


def write_probes(path: str | Path, probes: Iterable[Probe]) -> None:
    """Write probes as JSON Lines; the file appears whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    write_records(path, (asdict(probe) for probe in probes))


def _as_words(phrase: str) -> str:
    # Not \b: a phrase may begin or end with a sign ("+254", "Washington, D.C.").
    return rf"(?<!\w){re.escape(phrase)}(?!\w)"
