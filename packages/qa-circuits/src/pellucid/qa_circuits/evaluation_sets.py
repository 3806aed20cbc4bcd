"""Evaluation sets of attribution, in which the sentence that answers is known (thesis 11.7.9).

- Synthetic 1: our probes with their true contexts; Synthetic 2: with the swapped answer in the original one's place.
- NQ-Swap 1 and 2, Natural Questions and HotPotQA: out of examples that `qa_data.read_qa` read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.core.errors import DataError

from .probes import Probe, stands
from .qa_data import QAExample
from .spans import Span, sentences


@dataclass(frozen=True)
class Located:
    """A question over a context, and where its answer is to be found.

    Attributes:
        context: the text.
        question: what is asked.
        answer: as it stands in the context.
        places: the sentences of the context that answer, in order; any of them is a right attribution.
    """

    context: str
    question: str
    answer: str
    places: tuple[Span, ...]


@dataclass(frozen=True)
class EvaluationSet:
    """Located questions.

    Attributes:
        name: such as "synthetic-2".
        items: each question once.
        left_out: how many questions had no answer that stands in a sentence of their context.
    """

    name: str
    items: tuple[Located, ...]
    left_out: int


def synthetic(probes: Sequence[Probe], which: Literal[1, 2]) -> EvaluationSet:
    """Synthetic 1 (the true context and answer) or 2 (the swapped ones) out of probes of D_copy.

    Raises:
        DataError: there is no probe, or none whose answer stands in a sentence of its context.
    """
    asked = (
        (p.context, p.question, (p.original_answer,)) if which == 1 else (p.modified_context, p.question, (p.answer,))
        for p in probes
    )
    return _collected(f"synthetic-{which}", (locate(*one) for one in asked))


def evaluation_set(examples: Sequence[QAExample]) -> EvaluationSet:
    """The examples of one set with the places of their answers: what the set calls evidence, where it does.

    Raises:
        DataError: there is no example, none whose answer stands in its context, or they come from several sets.
    """
    sources = sorted({example.source for example in examples})
    if len(sources) > 1:
        raise DataError(f"the examples come from several sets ({', '.join(sources)}): evaluate one at a time")
    found = (locate(e.context, e.question, e.answers, e.evidence) for e in examples)
    return _collected(sources[0] if sources else "evaluation", found)


def locate(
    context: str, question: str, answers: Sequence[str], evidence: Sequence[tuple[int, int]] = ()
) -> Located | None:
    """Find the sentences that answer: those that `evidence` touches, or else those in which an answer stands.

    Args:
        context: the text.
        question: what is asked.
        answers: in order of preference; the first one that stands in the context is taken.
        evidence: characters of the context, `(start, stop)`.

    Returns:
        None where no answer stands in the context, as whole words and in the same letters, or none in one sentence.
    """
    answer = next((answer for answer in answers if stands(answer, context)), None)
    if answer is None:
        return None
    spans = sentences(context)
    if evidence:
        places = [span for span in spans if any(span.start < stop and start < span.stop for start, stop in evidence)]
    else:
        places = [span for span in spans if stands(answer, span.of(context))]
    return Located(context, question, answer, tuple(places)) if places else None


def _collected(name: str, found: Iterable[Located | None]) -> EvaluationSet:
    everything = list(found)
    items = tuple(dict.fromkeys(item for item in everything if item is not None))
    if not items:
        raise DataError(f"{name}: of {len(everything)} questions none has an answer that stands in its context")
    return EvaluationSet(name, items, everything.count(None))
