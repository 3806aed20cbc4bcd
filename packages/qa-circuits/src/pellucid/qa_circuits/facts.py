"""D_copy from plain facts: probes whose contexts differ in wording, order and length (thesis section 8.3.1)."""

import itertools
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pellucid.core.errors import DataError, OptionError
from pellucid.core.jsonl import read_records

from .probes import Probe, flaw, stands, swap
from .wording import REMARKS, wording

_Item = TypeVar("_Item")

LONGEST = 12  # sentences in a context
# How often a sentence beside the fact is drawn from the subject's other facts, the relation's other subjects, all
# facts, and remarks that state none. Mostly it is about the subject, as in a text that someone wrote about it.
_WEIGHTS = (5, 1, 2, 5)
_TRIES = 20  # contexts drawn for one fact before it is given up


@dataclass(frozen=True)
class Fact:
    """A subject, a relation such as "capital", and the answer; a subject may have several answers."""

    subject: str
    relation: str
    answer: str


@dataclass(frozen=True)
class Change:
    """What is put in the place of a fact's answer, and of the whole fact.

    Attributes:
        answer: the swapped answer: true of neither the fact's subject nor the other's.
        other: an unrelated fact of the same relation, whose subject and answer corrupt the context.
    """

    answer: str
    other: Fact


class Pool:
    """Facts without repetitions, looked up by subject and by relation.

    Facts whose subject and answer stand in one another ("Mexico", "Mexico City") are left out: neither could be
    replaced without the other.
    """

    def __init__(self, facts: Iterable[Fact]) -> None:
        self.facts = tuple(fact for fact in dict.fromkeys(facts) if not _overlap(fact.subject, fact.answer))
        self.of_subject: dict[str, list[Fact]] = defaultdict(list)
        self.of_relation: dict[str, list[Fact]] = defaultdict(list)
        self.answers: dict[tuple[str, str], set[str]] = defaultdict(set)
        for fact in self.facts:
            self.of_subject[fact.subject].append(fact)
            self.of_relation[fact.relation].append(fact)
            self.answers[fact.subject, fact.relation].add(fact.answer.casefold())
        self._answers = {
            name: tuple(dict.fromkeys(fact.answer for fact in facts)) for name, facts in self.of_relation.items()
        }

    def shuffled(self, rng: random.Random) -> Iterator[Fact]:
        """All facts in random order, the relations taking turns, so that a frequent one does not crowd out the rest."""
        queues = [rng.sample(facts, len(facts)) for facts in self.of_relation.values()]
        while queues:
            for queue in queues:
                yield queue.pop()
            queues = [queue for queue in queues if queue]

    def changes(self, fact: Fact, rng: random.Random) -> Iterator[Change]:
        """Changes that can be made to a fact, in random order, one for each other fact that can take its place."""
        true = self.answers[fact.subject, fact.relation]
        for other in _random_order(self.of_relation[fact.relation], rng):
            if other.answer.casefold() in true or _clash((other.subject, other.answer), (fact.subject, fact.answer)):
                continue
            theirs = self.answers[other.subject, other.relation]
            for answer in _random_order(self._answers[fact.relation], rng):
                if answer.casefold() in true | theirs:
                    continue
                if not _clash((answer,), (fact.subject, fact.answer, other.subject, other.answer)):
                    yield Change(answer, other)
                    break


def read_facts(path: str | Path) -> list[Fact]:
    """Read facts from a JSON Lines file with the text fields `subject`, `relation` and `answer`.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line lacks a field; the message names file and line.
    """
    return [Fact(**record) for _, record in read_records(path, ("subject", "relation", "answer"))]


def copy_probes(facts: Sequence[Fact], n: int, seed: int = 0, longest: int = LONGEST) -> list[Probe]:
    """Build the probe set D_copy (thesis section 8.3.1), with no fixed template.

    The modified context gives another answer of the same relation wherever the original one stood; the corrupted
    context and question are about another subject, with that one's own answer. Contexts have 1 to `longest`
    sentences: the fact and, before and after it, other facts of the subject, the same relation of other subjects,
    unrelated facts, and remarks about the subject that state none. Relations take turns.

    Args:
        facts: (subject, relation, answer); repetitions count once.
        n: how many probes; no two are of the same fact.
        seed: same facts and seed, same probes; the first of a larger `n` are those of a smaller one.
        longest: sentences in a context at most.

    Raises:
        DataError: fewer than `n` can be made; the message says how many.
        OptionError: `n` is less than 1.
    """
    if n < 1:
        raise OptionError(f"{n} probes asked for; ask for 1 or more")
    probes = list(itertools.islice(stream_copy_probes(facts, seed, longest), n))
    if len(probes) < n:
        raise DataError(
            f"{n} probes asked for, but {len(probes)} can be made of these {len(set(facts))} facts; "
            "ask for fewer, or give more facts of each relation (with three different answers or more)"
        )
    return probes


def stream_copy_probes(facts: Sequence[Fact], seed: int = 0, longest: int = LONGEST) -> Iterator[Probe]:
    """Yield the probes of `copy_probes` one by one, as many as can be made."""
    pool = Pool(facts)
    for fact in pool.shuffled(random.Random(f"order {seed}")):
        # Each fact has its own generator: what is drawn for one does not depend on how many others were drawn.
        rng = random.Random(f"{seed}\n{fact.subject}\n{fact.relation}\n{fact.answer}")
        probe = _probe(fact, pool, rng, longest)
        if probe is not None:
            yield probe


def altered(fact: Fact, change: Change, context: str, question: str) -> Probe:
    """The probe that a true context and question about a fact make under a change."""
    modified = swap(context, {fact.answer: change.answer})
    other = change.other
    corrupted = swap(modified, {fact.subject: other.subject, change.answer: other.answer})
    return Probe(
        subject=fact.subject,
        question=question,
        original_answer=fact.answer,
        answer=change.answer,
        context=_tidy(context),
        modified_context=_tidy(modified),
        corrupted_context=_tidy(corrupted),
        corrupted_question=swap(question, {fact.subject: other.subject}),
        relation=fact.relation,
    )


def ask(fact: Fact, rng: random.Random) -> str:
    """A question about a fact, in one of its relation's wordings."""
    return rng.choice(wording(fact.relation).questions).format(subject=fact.subject)


def tell(fact: Fact, rng: random.Random) -> str:
    """A sentence that states a fact, in one of its relation's wordings."""
    return rng.choice(wording(fact.relation).sentences).format(subject=fact.subject, answer=fact.answer)


def _probe(fact: Fact, pool: Pool, rng: random.Random, longest: int) -> Probe | None:
    for change in itertools.islice(pool.changes(fact, rng), _TRIES):
        length = rng.randint(1, longest)
        sentences = distractors(fact, change, pool, length - 1, rng)
        sentences.insert(rng.randint(0, len(sentences)), tell(fact, rng))
        probe = altered(fact, change, " ".join(sentences), ask(fact, rng))
        if flaw(probe) is None:
            return probe
    return None


def distractors(fact: Fact, change: Change, pool: Pool, count: int, rng: random.Random) -> list[str]:
    """Up to `count` sentences about other facts that leave the question with one answer before and after the change."""
    sources: tuple[Sequence[Fact | str], ...] = (
        pool.of_subject[fact.subject],
        pool.of_relation[fact.relation],
        pool.facts,
        REMARKS,
    )
    kinds = {kind: _random_order(items, rng) for kind, items in enumerate(sources)}
    taken: dict[Fact | str, str] = {}
    names = (fact.answer, change.answer, change.other.subject, change.other.answer)
    while kinds and len(taken) < count:
        (kind,) = rng.choices(list(kinds), [_WEIGHTS[kind] for kind in kinds])
        drawn = next(kinds[kind], None)
        if drawn is None:
            del kinds[kind]
            continue
        if isinstance(drawn, Fact):
            sentence = tell(drawn, rng)
            of_subject = drawn.subject == fact.subject
            answers = of_subject and drawn.relation == fact.relation
        else:
            sentence, of_subject, answers = drawn.format(subject=fact.subject), True, False
        if (
            drawn not in taken
            and not answers
            # "Guinea" stands in "Papua New Guinea": replacing the one would maim the other.
            and (of_subject or not stands(fact.subject, sentence, any_case=True))
            and not any(stands(name, sentence, any_case=True) for name in names)
        ):
            taken[drawn] = sentence
    return rng.sample(list(taken.values()), len(taken))


def _random_order(items: Sequence[_Item], rng: random.Random) -> Iterator[_Item]:
    # Shuffled as it is read: a handful is wanted of what may be many thousands.
    moved: dict[int, int] = {}
    for last in range(len(items) - 1, -1, -1):
        chosen = rng.randint(0, last)
        yield items[moved.get(chosen, chosen)]
        moved[chosen] = moved.get(last, last)


def _overlap(one: str, other: str) -> bool:
    return stands(one, other, any_case=True) or stands(other, one, any_case=True)


def _clash(names: Iterable[str], others: Sequence[str]) -> bool:
    return any(_overlap(one, other) for one in names for other in others)


def _tidy(text: str) -> str:
    # "Washington, D.C." at the end of a sentence brings its own full stop.
    return re.sub(r"(?<!\.)\.\.(?!\.)", ".", text)
