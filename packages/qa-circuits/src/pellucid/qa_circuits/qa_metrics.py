"""Exact match and F1 of an answer, as SQuAD counts them (Rajpurkar et al. 2016)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """An answer without what does not count: case of letters, ASCII punctuation, articles, spare blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(reply: str, answers: Sequence[str]) -> float:
    """1 if the normalised reply is one of the normalised answers, else 0."""
    return float(any(normalised(reply) == normalised(answer) for answer in answers))


def f1(reply: str, answers: Sequence[str]) -> float:
    """The best F1 over the answers of the words that a reply shares with it, in [0, 1]; 0 where there are none.

    A reply or answer that normalises to nothing ("The") scores 1 with another such one and 0 otherwise.
    """
    return max((_overlap(normalised(reply).split(), normalised(answer).split()) for answer in answers), default=0.0)


def _overlap(one: Sequence[str], other: Sequence[str]) -> float:
    if not one or not other:
        return float(one == other)
    shared = (Counter(one) & Counter(other)).total()
    return 2 * shared / (len(one) + len(other))
