"""Byte-pair merges of a list of words, the same on every machine."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

Merges = tuple[tuple[str, str], ...]


def merges_of(words: Iterable[tuple[str, ...]]) -> Merges:
    """Merge the most frequent pair of symbols, again and again, until each word is one symbol.

    Args:
        words: as symbols.

    Returns:
        The pairs in their order; of pairs that are equally frequent the first in the alphabet goes first.
    """
    left = [list(word) for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for word in left for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        left = [_merged(word, best) for word in left]
    return tuple(merges)


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for symbol in word:
        if found and (found[-1], symbol) == pair:
            found[-1] += symbol
        else:
            found.append(symbol)
    return found
