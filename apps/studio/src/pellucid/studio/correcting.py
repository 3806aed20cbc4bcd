"""A multimodal model's answer corrected by MultEdit, and what else that changes (thesis 6.4)."""

import contextlib
import hashlib
import html
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pellucid.core.errors import DataError

from .limits import picture, words

if TYPE_CHECKING:
    from pellucid.core.edits import WeightEdit
    from pellucid.core.multimodal import LoadedMultimodal
    from pellucid.mllm_edit.questions import VisualQuestion

ZOO = "zoo:tinyworld-llava"
EXAMPLES, PICTURES, UNRELATED = 12, 3, 12
PEOPLE = 160  # pictures of the set that is drawn
MOST = 8  # questions that a visitor may add of each kind

Kind = Literal["corrected", "in other words", "another picture", "must stay"]


@dataclass(frozen=True)
class Row:
    """One question, answered before and after; chances are P(wanted) in [0, 1]."""

    kind: Kind
    question: str
    wanted: str
    before: str
    after: str
    chance_before: float
    chance_after: float

    @property
    def good(self) -> bool:
        """Whether the answer afterwards is the wanted one (what must stay is wanted as it was)."""
        return self.after.strip().lower() == self.wanted.strip().lower()


@dataclass(frozen=True, eq=False)
class Corrected:
    """An edit, the answers before and after it, what it took, and its file."""

    edit: "WeightEdit"
    rows: tuple[Row, ...]
    seconds: float
    file: Path

    @property
    def summary(self) -> str:
        """In a sentence."""
        parts = []
        for kind in ("corrected", "in other words", "another picture", "must stay"):
            rows = [row for row in self.rows if row.kind == kind]
            if rows:
                parts.append(f"{kind} {sum(row.good for row in rows)} of {len(rows)}")
        return f"Right afterwards: {', '.join(parts)}. The edit took {self.seconds:.0f} s."


class Correcting:
    """Asks a model about pictures and corrects it; everything is loaded when it is first needed.

    Args:
        model: a multimodal model: `zoo:NAME`, a folder or a hub id.
        keep: a folder for pictures and edits.
        device: such as "cpu" or "cuda".
    """

    def __init__(self, model: str, keep: Path, device: str) -> None:
        self.model, self._keep, self._device = model, keep, device

    @cached_property
    def _loaded(self) -> "LoadedMultimodal":
        from pellucid.core.loading import ModelSpec
        from pellucid.core.multimodal import load_multimodal

        return load_multimodal(ModelSpec(self.model, device=self._device))

    @cached_property
    def _known(self) -> "list[VisualQuestion]":
        """Questions about the drawn world, whose answers are known; none for other models than the zoo's."""
        from pellucid.mllm_edit.questions import read_questions
        from pellucid.zoo.world_datasets import write_dataset

        if self.model != ZOO:
            return []
        folder = self._keep / "facts"
        if not (folder / "test.jsonl").is_file():
            write_dataset("facts", folder, {"train": 0, "validation": 0, "test": PEOPLE}, seed=0)
        return read_questions(folder / "test.jsonl")

    @property
    def layer(self) -> int | None:
        """Which layer the package's study found best; None leaves it to the number of layers."""
        return 1 if self.model == ZOO else None

    def examples(self) -> "list[VisualQuestion]":
        """Questions that the model was never told the answer of, one a picture."""
        found: dict[str, VisualQuestion] = {}
        for one in self._known:
            if one.group == "withheld" and one.visual and not one.textual and one.question not in _asked(found, one):
                found.setdefault(one.image, one)
        return list(found.values())[:EXAMPLES]

    def ask(self, image: str | None, question: str, edit: "WeightEdit | None" = None) -> tuple[str, float]:
        """Answer a question about a picture, with an edit or as the model is.

        Returns:
            The answer, and the probability of its first token.

        Raises:
            DataError: the picture or the question are missing, too large or damaged.
        """
        from pellucid.mllm_edit.answering import generate_answers
        from pellucid.mllm_edit.questions import VisualQuestion

        picture(image)
        asked = VisualQuestion(str(image), words(question, "question"), "")
        with self._with(edit):
            [found] = generate_answers(self._loaded, [asked])
        return found.text, found.confidence

    def correct(
        self,
        image: str | None,
        question: str,
        constraint: str,
        answer: str,
        paraphrases: Sequence[str] = (),
        stay: Sequence[str] = (),
    ) -> Corrected:
        """Give the model a new answer, and ask it around that before and after.

        Args:
            image: path of the picture.
            question: asked about it.
            constraint: the words of the question that stand for what the picture shows.
            answer: that is wanted.
            paraphrases: the question in other words; for pictures of the drawn world the known ones come on top.
            stay: questions about the same picture whose answers must not change.

        Raises:
            DataError: something is missing, too long, or the constraint does not stand in the question.
        """
        from pellucid.mllm_edit.multedit import LAYER, multedit
        from pellucid.mllm_edit.questions import VisualQuestion
        from pellucid.mllm_edit.values import Search

        picture(image)
        asked, wanted, visual = words(question, "question"), words(answer, "answer"), words(constraint, "constraint")
        if visual not in asked:
            raise DataError(f"the words {visual!r} do not stand in the question {asked!r}: copy them from it")
        one = VisualQuestion(str(image), asked, visual, answers=(wanted,))
        kinds, questions = self._around(one, paraphrases[:MOST], stay[:MOST])
        started = time.monotonic()
        # Tinyworld's model looks at the picture again where it answers; the thesis edits at the constraint.
        search = Search(token="answer" if self.model == ZOO else "constraint")
        edit = multedit(self._loaded, [one], layer=LAYER if self.layer is None else self.layer, search=search).edit
        seconds = time.monotonic() - started
        rows = self._compared(kinds, questions, edit)
        return Corrected(edit, rows, seconds, edit.save(self._keep / "corrections" / str(time.time_ns())))

    def _around(
        self, one: "VisualQuestion", paraphrases: Sequence[str], stay: Sequence[str]
    ) -> "tuple[list[Kind], list[VisualQuestion]]":
        """The corrected question, and those by which the correction is judged."""
        # A picture that was chosen on the page comes back under another path.
        seen = _pixels(one.image)
        own = next((k for k in self._known if k.question == one.question and _pixels(k.image) == seen), None)
        other = [*(own.paraphrases if own else ()), *paraphrases]
        found: list[tuple[Kind, VisualQuestion]] = [("corrected", one)]
        found += [
            ("in other words", replace(one, question=words(text, "question in other words"), visual=""))
            for text in dict.fromkeys(other)
        ]
        if own is not None:
            same = [k for k in self._known if k.entity == own.entity and k.question == own.question]
            images = list(dict.fromkeys(k.image for k in same if k.image != own.image))[:PICTURES]
            found += [("another picture", replace(one, image=image)) for image in images]
            others = [k for k in self._known if k.group in ("taught", "seen") and k.entity != own.entity]
            found += [("must stay", others[at * len(others) // UNRELATED]) for at in range(UNRELATED)]
        found += [
            ("must stay", replace(one, question=words(text, "question that must stay"), visual="", answers=()))
            for text in dict.fromkeys(stay)
        ]
        return [kind for kind, _ in found], [question for _, question in found]

    def _compared(self, kinds: "list[Kind]", questions: "list[VisualQuestion]", edit: "WeightEdit") -> tuple[Row, ...]:
        from pellucid.mllm_edit.answering import answer_probabilities, generate_answers

        before = [found.text for found in generate_answers(self._loaded, questions)]
        # What must stay is what the model says as it is, be it right or wrong.
        wanted = [
            old if kind == "must stay" else questions[0].answers[0] for kind, old in zip(kinds, before, strict=True)
        ]
        chances = answer_probabilities(self._loaded, questions, wanted).tolist()
        with self._with(edit):
            after = [found.text for found in generate_answers(self._loaded, questions)]
            then = answer_probabilities(self._loaded, questions, wanted).tolist()
        texts = [question.question for question in questions]
        return tuple(
            Row(*row) for row in zip(kinds, texts, wanted, before, after, chances, then, strict=True)
        )  # fmt: skip

    def _with(self, edit: "WeightEdit | None") -> "contextlib.AbstractContextManager[object]":
        return contextlib.nullcontext() if edit is None else edit.applied(self._loaded.model)


def _asked(found: "dict[str, VisualQuestion]", one: "VisualQuestion") -> set[str]:
    """What is asked about this person already."""
    return {other.question for other in found.values() if other.entity == one.entity}


@cache
def _pixels(path: str) -> bytes:
    return hashlib.sha256(picture(path).tobytes()).digest()


def as_table(rows: Sequence[Row]) -> str:
    """Write rows as an HTML table, escaped."""
    heads = ("what", "question", "wanted", "before", "after", "P before", "P after", "result")
    lines = ["".join(f'<th scope="col">{head}</th>' for head in heads)]
    for row in rows:
        cells = (
            row.kind, row.question, row.wanted, row.before, row.after, f"{row.chance_before:.2f}",
            f"{row.chance_after:.2f}", "as wanted" if row.good else "not as wanted",
        )  # fmt: skip
        lines.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines[1:])
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Answers before and after"><table>'
        f"<thead><tr>{lines[0]}</tr></thead><tbody>{body}</tbody></table></div>"
    )
