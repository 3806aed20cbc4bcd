"""A question about a document, answered while the sentences that the answer comes from are marked (thesis 8.4.1)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pellucid.core.errors import OptionError
from pellucid.core.passages import Mark, Passage

from .limits import checked_document, words

if TYPE_CHECKING:
    from pellucid.core.loading import Loaded
    from pellucid.qa_circuits.spans import ScoredSpan

HEADS = {"zoo:smollm2": "23.2"}
"""Heads that were chosen by accuracy (the package's README says on what)."""

SHOWN = 3  # sentences
FAINTEST = 0.15  # strength of a mark that can still be seen
LONGEST = 64  # tokens of an answer

QUESTION = "What is the currency of Norway?"
DOCUMENT = (
    "Norway lies in the north of Europe, and much of it is mountains. Its capital is Oslo, at the end of a long fjord. "
    "People pay with a currency called the krone. The town of Bergen on the west coast is known for rain. In 1070 it "
    "was founded by King Olav Kyrre. The railway from Oslo to Bergen takes about seven hours."
)


@dataclass(frozen=True)
class Told:
    """An answer as far as it has come, and the document with the sentences it comes from so far."""

    answer: str
    passage: Passage


class Asking:
    """Answers questions over documents; the model is loaded with the first.

    Args:
        model: a causal language model: `zoo:NAME`, a folder or a hub id.
        head: LAYER.HEAD, counted from 0; None takes the one known for the model.
        device: such as "cpu" or "cuda".
    """

    def __init__(self, model: str, head: str | None, device: str) -> None:
        self.model, self._head, self._device = model, head, device

    @cached_property
    def _loaded(self) -> "Loaded":
        from pellucid.core.loading import ModelSpec, load

        return load(ModelSpec(self.model, device=self._device))

    @property
    def head(self) -> tuple[int, int]:
        """The head that is read.

        Raises:
            OptionError: none is known for this model, or the text is no head.
        """
        from pellucid.qa_circuits.source_cli import head_of

        known = self._head or HEADS.get(self.model)
        if known is None:
            raise OptionError(
                f"no head is known for {self.model}: find one by `pellucid circuits heads`, and start with "
                "--head LAYER.HEAD"
            )
        return head_of(known, None)

    def stream(self, document: str, question: str) -> Iterator[Told]:
        """Yield the answer token by token, each time with the document marked for what there is of it.

        A document that is longer than the model reads is read in overlapping windows, and told at the end.

        Raises:
            DataError: document or question are empty or too long.
            OptionError: the model has no such head.
        """
        from pellucid.qa_circuits.attribution import attribute, stream_attributions

        text, asked, head = checked_document(document), words(question, "question"), self.head
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        if self._is_too_long(text):
            found = attribute(
                model, tokenizer, text, asked, head=head, k=SHOWN, max_new_tokens=LONGEST, window=True
            )  # fmt: skip
            yield Told(found.answer, marked(text, found.spans))
            return
        answer = ""
        best: dict[tuple[int, int], ScoredSpan] = {}
        for piece, spans in stream_attributions(
            model, tokenizer, text, asked, head=head, k=SHOWN, max_new_tokens=LONGEST
        ):
            answer += piece
            for scored in spans:
                place = (scored.span.start, scored.span.stop)
                if place not in best or scored.score > best[place].score:
                    best[place] = scored
            ranked = sorted(best.values(), key=lambda scored: -scored.score)[:SHOWN]
            yield Told(answer.strip(), marked(text, ranked))

    def _is_too_long(self, text: str) -> bool:
        limit = getattr(self._loaded.model.config.get_text_config(), "max_position_embeddings", None)
        return limit is not None and len(self._loaded.tokenizer(text)["input_ids"]) > limit - 3 * LONGEST


def marked(document: str, spans: "Sequence[ScoredSpan]") -> Passage:
    """Mark the spans in the document, best first; the label has the score, the colour compares it with the best."""
    most = max((scored.score for scored in spans), default=0.0) or 1.0
    marks = [
        Mark(scored.span.start, scored.span.stop, f"{rank}: {scored.score:.2f}", max(FAINTEST, scored.score / most))
        for rank, scored in enumerate(spans, 1)
    ]
    return Passage(document, marks, "What the answer comes from, strongest first.")
