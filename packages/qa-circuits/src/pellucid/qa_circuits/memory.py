"""D_memory: probes whose context no longer gives the answer, so that a model can only remember it (thesis 8.3.1).

The answer is replaced by a token that means nothing like it, such as a dash (11.7.8). The corrupted prompt is about
another subject and holds the same dash in place of its answer: what is lost between the two runs is what the model
remembers of the subject.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

from .facts import LONGEST, Change, Fact, Pool, ask, distractors, tell
from .probes import STAND_IN, Probe, stands, swap

_TRIES = 20  # contexts drawn for one fact before it is given up


def stream_memory_probes(
    facts: Sequence[Fact], seed: int = 0, longest: int = LONGEST, stand_in: str = STAND_IN
) -> Iterator[Probe]:
    """Yield probes of D_memory, one a fact, as many as can be made; contexts are worded as those of `copy_probes`.

    Args:
        facts: (subject, relation, answer); repetitions count once.
        seed: same facts and seed, same probes.
        longest: sentences in a context at most.
        stand_in: what stands in the answer's place; far from any answer in meaning.

    Yields:
        Probes whose `answer` is the original one.
    """
    pool = Pool(facts)
    for fact in pool.shuffled(random.Random(f"order {seed}")):
        rng = random.Random(f"memory {seed}\n{fact.subject}\n{fact.relation}\n{fact.answer}")
        probe = _probe(fact, pool, rng, longest, stand_in)
        if probe is not None:
            yield probe


def forgotten(fact: Fact, other: Fact, context: str, question: str, stand_in: str = STAND_IN) -> Probe:
    """The probe that a true context and question about a fact make when the answer is struck out of it."""
    modified = swap(context, {fact.answer: stand_in})
    return Probe(
        subject=fact.subject,
        question=question,
        original_answer=fact.answer,
        answer=fact.answer,
        context=context,
        modified_context=modified,
        corrupted_context=swap(modified, {fact.subject: other.subject}),
        corrupted_question=swap(question, {fact.subject: other.subject}),
        relation=fact.relation,
    )


def gives_away(probe: Probe) -> bool:
    """Whether the answer stands in anything that is read, or the subject in what is about another one."""
    corrupted = (probe.corrupted_context, probe.corrupted_question)
    return any(
        stands(probe.answer, text, any_case=True) for text in (probe.modified_context, probe.question, *corrupted)
    ) or any(stands(probe.subject, text, any_case=True) for text in corrupted)


def _probe(fact: Fact, pool: Pool, rng: random.Random, longest: int, stand_in: str) -> Probe | None:
    for change in itertools.islice(pool.changes(fact, rng), _TRIES):
        sentences = _sentences(fact, change, pool, rng.randint(1, longest), rng)
        probe = forgotten(fact, change.other, " ".join(sentences), ask(fact, rng), stand_in)
        if not gives_away(probe):
            return probe
    return None


def _sentences(fact: Fact, change: Change, pool: Pool, count: int, rng: random.Random) -> list[str]:
    found = distractors(fact, change, pool, count - 1, rng)
    found.insert(rng.randint(0, len(found)), tell(fact, rng))
    return found
