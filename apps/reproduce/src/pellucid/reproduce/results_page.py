"""RESULTS.md: our numbers beside the thesis's, from runs."""

from collections import Counter
from collections.abc import Mapping, Sequence

from .entry import Entry
from .running import VERDICTS, Outcome

_WORDS = {
    "carries over": "the thesis's finding is seen here, too",
    "does not carry over": "it is not",
    "left open": "the numbers do not decide",
    "for the eye": "pictures, or nothing to decide by",
    "failed": "a step went wrong",
}


def results_page(entries: Sequence[Entry], found: Mapping[str, Outcome]) -> str:
    """The page in Markdown.

    Args:
        entries: in the page's order.
        found: outcomes by id; entries without one stand at the end.
    """
    ran = [entry for entry in entries if entry.id in found]
    counts = Counter(found[entry.id].verdict for entry in ran)
    lines = [
        "# What carries over to small models",
        "",
        "Written by `pellucid reproduce`, from runs at scale zoo: small models and data, so numbers differ from the",
        "thesis's, and what is compared is the finding. Brackets are 95 % intervals.",
        "",
        f"{len(ran)} of {len(entries)} entries were run.",
        "",
        *(f"- {word}: {counts[word]} ({_WORDS[word]})" for word in VERDICTS if counts[word]),
    ]
    for entry in ran:
        lines += _section(entry, found[entry.id])
    left = [entry for entry in entries if entry.id not in found]
    if left:
        lines += ["", "## Not run", "", "| entry | shows | why |", "| --- | --- | --- |"]
        lines += [f"| {e.id} | {_cell(e.shows)} | {_cell(e.why_not) if e.zoo is None else 'not yet'} |" for e in left]
    return "\n".join(lines) + "\n"


def _section(entry: Entry, outcome: Outcome) -> list[str]:
    assert entry.zoo is not None
    lines = ["", f"## {entry.id}: {entry.shows}", "", f"**{outcome.verdict}**", "", f"Thesis: {entry.thesis}", ""]
    if outcome.failed:
        lines += [f"Failed: {outcome.failed}", ""]
    if outcome.numbers:
        lines += ["| ours | |", "| --- | --- |"]
        lines += [f"| {_cell(what)} | {_cell(value)} |" for what, value in outcome.numbers.items()]
        lines.append("")
    if entry.differs:
        lines += [f"Differs: {entry.differs}", ""]
    device = f" on {outcome.device}, seed {outcome.seeds}" if outcome.device else ""
    lines.append(f"{outcome.date}{device}; {entry.zoo.n}; {outcome.seconds:,.0f} s in all its steps. Commands:")
    lines += ["", "```", *(f"pellucid {quoted(step.argv)}" for step in entry.zoo.steps), "```"]
    return lines


def quoted(argv: Sequence[str]) -> str:
    """Words as a line for a shell; placeholders in braces stay bare."""
    import shlex

    return " ".join(word if word.startswith("{") and "}" in word and " " not in word else shlex.quote(word)
                    for word in argv)  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
