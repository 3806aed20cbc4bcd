"""Have a chat model mark the constraints of visual questions (thesis 11.5.1), and set aside what it is unsure of.

The model is shown worked examples and asked several times, with the examples in other orders. Where all its replies
can be read and say the same, they are taken; every other question goes into a review file with what was said, for
somebody to fill in.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import Loaded, ModelSpec, load
from pellucid.core.outfolder import write_file
from pellucid.core.sweeps import Context, Sweep

from .constraints_data import find_faults, span_of
from .questions import VisualQuestion

Turns = Sequence[dict[str, str]]
Ask = Callable[[Sequence[Turns]], Sequence[str]]
"""Several conversations to one reply each: a local model (`local_chat`), or any other."""

_TASK = (
    "A question is asked about a picture. Copy from the question, word for word, the words that stand for what the "
    "picture shows (visual), and the words that narrow the answer down beside these, such as a year, a place or a name "
    "(text). Reply with two lines, and write none where there are no such words."
)
_MOST_TOKENS = 48
_BATCH = 16


@dataclass(frozen=True)
class Worked:
    """A question that is marked by hand: its visual constraint, and its text constraints."""

    question: str
    visual: str
    textual: tuple[str, ...] = ()


EXAMPLES = (
    Worked("In which country does this river end?", "this river"),
    Worked("Who was the first to climb this mountain?", "this mountain"),
    Worked("Which prize did this writer win in 1998?", "this writer", ("1998",)),
    Worked("What is this tool used for?", "this tool"),
    Worked("How many people can sit in these boats?", "these boats"),
    Worked("Is this dish eaten at breakfast in Norway?", "this dish", ("breakfast", "Norway")),
    Worked("Name a song that this band recorded.", "this band"),
    Worked("What would happen if the man let go of the rope?", "the man"),
    Worked("What does this company make besides cars?", "this company", ("cars",)),
    Worked("Which of the fruits in the bowl is the sourest?", "the fruits in the bowl"),
)


@dataclass(frozen=True)
class Annotation:
    """What a model made of one question.

    Attributes:
        visual: its visual constraint as the question spells it; empty where no reply could be read.
        textual: its text constraints.
        sure: whether all replies could be read and agree.
        reason: why not; empty where `sure`.
        replies: what the model said.
    """

    visual: str
    textual: tuple[str, ...]
    sure: bool
    reason: str
    replies: tuple[str, ...]


def annotate(
    questions: Sequence[str], ask: Ask, examples: Sequence[Worked] = EXAMPLES, votes: int = 3, seed: int = 0
) -> list[Annotation]:
    """Have the constraints of questions marked.

    Args:
        questions: texts of questions.
        ask: the model that is asked.
        examples: worked ones, at least one.
        votes: how often each question is asked, each time with the examples in another order.
        seed: of these orders.

    Raises:
        DataError: a worked example's constraint does not stand in it.
        OptionError: there are no examples, no votes, or `ask` gives another number of replies than it was asked for.
    """
    _check(examples, votes)
    turns = [turns_for(question, examples, f"{seed} {vote}") for question in questions for vote in range(votes)]
    replies = list(ask(turns))
    if len(replies) != len(turns):
        raise OptionError(f"the model gave {len(replies)} replies to {len(turns)} conversations: it must give as many")
    return [settled(question, replies[place * votes : (place + 1) * votes]) for place, question in enumerate(questions)]


def turns_for(question: str, examples: Sequence[Worked], order: str) -> list[dict[str, str]]:
    """The conversation that asks for one question's constraints, ending with the user's turn.

    Args:
        question: its text.
        examples: worked ones.
        order: decides their order.
    """
    shown = random.Random(order).sample(list(examples), len(examples))
    turns: list[dict[str, str]] = []
    for number, one in enumerate(shown):
        # No system turn: some templates refuse one.
        asked = f"{_TASK}\n\nQuestion: {one.question}" if number == 0 else f"Question: {one.question}"
        said = f"visual: {one.visual}\ntext: {'; '.join(one.textual) or 'none'}"
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return [*turns, {"role": "user", "content": f"Question: {question}"}]


def settled(question: str, replies: Sequence[str]) -> Annotation:
    """What the replies to one question come to: what most of those say that can be read."""
    read, faults = [], []
    for reply in replies:
        try:
            read.append(read_reply(reply, question))
        except DataError as error:
            faults.append(str(error))
    if not read:
        return Annotation("", (), False, faults[0] if faults else "there is no reply", tuple(replies))
    counts = Counter(read).most_common()
    visual, textual = counts[0][0]
    if faults:
        reason = faults[0]
    elif len(counts) > 1:
        reason = f"{len(counts)} different replies, such as {counts[1][0][0]!r} beside {visual!r}"
    else:
        reason = ""
    return Annotation(visual, textual, not reason, reason, tuple(replies))


def read_reply(reply: str, question: str) -> tuple[str, tuple[str, ...]]:
    """The visual constraint and the text constraints that a reply names, as the question spells them.

    Raises:
        DataError: a line is missing, or what it names does not stand in the question or names nothing.
    """
    lines = dict(re.findall(r"(?im)^\W*(visual|text)\s*:\s*(.*?)\s*$", reply)[::-1])
    lines = {name.lower(): value for name, value in lines.items()}
    if "visual" not in lines or "text" not in lines:
        raise DataError(f"the reply {reply.strip()[:80]!r} does not have the lines 'visual:' and 'text:'")
    visual = _words(lines["visual"], question)
    if len(visual) != 1:
        raise DataError(f"the reply names {len(visual)} visual constraints: one is wanted")
    found = visual[0], tuple(_words(lines["text"], question))
    one = VisualQuestion(image="", question=question, visual=found[0], textual=found[1], answers=())
    if faults := find_faults([one], needs_answers=False):
        raise DataError(faults[0].what)
    return found


def local_chat(loaded: Loaded) -> Ask:
    """Ask a loaded chat model, greedily, `_BATCH` conversations at a time.

    Raises:
        OptionError: its tokenizer has no chat template.
    """
    import torch

    model, tokenizer = loaded.model, loaded.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise OptionError(f"{loaded.spec.name} has no chat template: take a model tuned to follow instructions")
    device = model.device if model.device.type != "meta" else torch.device("cpu")

    @torch.inference_mode()
    def ask(conversations: Sequence[Turns]) -> list[str]:
        replies: list[str] = []
        for start in range(0, len(conversations), _BATCH):
            texts = [
                tokenizer.apply_chat_template(
                    list(turns), tokenize=False, add_generation_prompt=True, enable_thinking=False
                )
                for turns in conversations[start : start + _BATCH]
            ]
            inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").to(device)
            got = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=_MOST_TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id,
            )
            replies += tokenizer.batch_decode(got[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return replies

    return ask


@dataclass(frozen=True)
class Asked:
    """A question to be marked: the cell of an annotation."""

    question: str


@dataclass(frozen=True)
class AnnotationJob:
    """What every cell of an annotation shares."""

    model: ModelSpec
    examples: tuple[Worked, ...]
    votes: int
    seed: int


@dataclass(frozen=True)
class AnnotationRow:
    """An `Annotation` as a ledger keeps it."""

    visual: str
    textual: list[str]
    sure: bool
    reason: str
    replies: list[str]


def annotation_sweep(
    job: AnnotationJob, questions: Sequence[VisualQuestion], **options: Any
) -> Sweep[Asked, AnnotationRow]:
    """A sweep that marks questions with a local model; those with the same words are one cell (rows: AnnotationRow).

    Args:
        job: which model, and how it is asked.
        questions: what to mark.
        options: further arguments of `Sweep`.

    Raises:
        DataError: a worked example's constraint does not stand in it.
        OptionError: there are no examples or no votes.
    """
    _check(job.examples, job.votes)
    cells = [Asked(text) for text in dict.fromkeys(one.question for one in questions)]
    settings = {"batch": _BATCH, **options}
    return Sweep(_annotate, cells, version="1", row=AnnotationRow, shared=job, setup=_load, **settings)


def annotated(
    questions: Sequence[VisualQuestion], found: Mapping[str, Annotation]
) -> tuple[list[VisualQuestion], list[VisualQuestion]]:
    """Put constraints into questions: those that the model was sure of, and the others, with its best guess.

    Args:
        questions: whose constraints were asked for.
        found: annotations by the text of the question; what lacks one counts as unsure.
    """
    sure: list[VisualQuestion] = []
    unsure: list[VisualQuestion] = []
    for one in questions:
        got = found.get(one.question, Annotation("", (), False, "it was not asked", ()))
        (sure if got.sure else unsure).append(replace(one, visual=got.visual, textual=got.textual))
    return sure, unsure


def write_review(path: Path, unsure: Sequence[VisualQuestion], found: Mapping[str, Annotation]) -> None:
    """Write the review file: JSON Lines of questions with `reason` and `replies`, to be corrected and read again.

    Args:
        path: of the file, which appears whole.
        unsure: as `annotated` returns them.
        found: annotations by the text of the question.

    Raises:
        DataError: the file cannot be written.
    """
    lines = []
    for one in unsure:
        got = found.get(one.question)
        said = {"reason": got.reason if got else "it was not asked", "replies": list(got.replies) if got else []}
        # A questions file tells pictures relative to itself, and this one may lie elsewhere.
        picture = {"image": str(Path(one.image).absolute()) if one.image else ""}
        lines.append(json.dumps(asdict(one) | picture | said, ensure_ascii=False) + "\n")
    write_file(path, "".join(lines).encode("utf-8", "replace"))


def annotations_in(sweep: Sweep[Asked, AnnotationRow], ledger: str | Path) -> dict[str, Annotation]:
    """Annotations by the text of the question, of all cells that a sweep has finished.

    Args:
        sweep: from `annotation_sweep`.
        ledger: that it was run with.

    Raises:
        LedgerError: there is no such ledger, or it is another sweep's.
    """
    return {
        cell.question: Annotation(row.visual, tuple(row.textual), row.sure, row.reason, tuple(row.replies))
        for cell, row in sweep.pairs(ledger)
    }


def _load(job: AnnotationJob) -> Loaded:
    return load(job.model)


def _annotate(cells: Sequence[Asked], context: Context) -> list[AnnotationRow]:
    job: AnnotationJob = context.shared
    asked = [cell.question for cell in cells]
    found = annotate(asked, local_chat(context.state), job.examples, job.votes, job.seed)
    return [AnnotationRow(one.visual, list(one.textual), one.sure, one.reason, list(one.replies)) for one in found]


def _words(line: str, question: str) -> list[str]:
    """The phrases of a line, separated by semicolons, as the question spells them."""
    if line.strip(" .").lower() in ("", "none"):
        return []
    found = []
    for phrase in line.split(";"):
        span = span_of(phrase.strip(" \"'`"), question)
        if span is None:
            raise DataError(f"the reply names {phrase.strip()!r}, which does not stand in the question")
        found.append(span)
    return found


def _check(examples: Sequence[Worked], votes: int) -> None:
    if not examples or votes < 1:
        raise OptionError(f"{len(examples)} worked examples and votes={votes}: give at least one of each")
    for one in examples:
        for phrase in (one.visual, *one.textual):
            if span_of(phrase, one.question) is None:
                raise DataError(f"the constraint {phrase!r} does not stand in the worked example {one.question!r}")
