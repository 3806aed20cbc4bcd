"""VQA accuracy (Antol et al. 2015, section 4): how far an answer agrees with what ten people answered."""

import re
from collections.abc import Sequence

from pellucid.core.errors import DataError

NORMALISATION = "1"
"""Version of `normalised`: raised when an answer may come out in another form, since accuracies then change."""

VOTES = 10
"""Answers a question in VQA and OK-VQA, one a person; shorter lists are of right answers, not of votes."""

_NEEDED = 3  # agreeing people who make an answer wholly right
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
            "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
_CONTRACTIONS = """
    ain't aren't can't couldn't could've didn't doesn't don't hadn't hasn't haven't he's how's i'm i've isn't it'd it'll
    let's might've mightn't mustn't must've needn't o'clock she's shouldn't should've somebody's someone's that'd that's
    there's there'd they'd they'll they're they've wasn't we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'll who's who've why'll why's won't wouldn't would've y'all you'd you'll you're you've
"""
_APOSTROPHES = {word.replace("'", ""): word for word in _CONTRACTIONS.split()}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def normalised(answer: str) -> str:
    """An answer in the form in which answers are compared, as VQA's evaluation has them.

    Lower case; no articles; numbers up to ten in digits; apostrophes back where they were left out; punctuation gone
    (apostrophes, colons, and full stops within numbers stay), or a space where it joins two words.
    """
    text = re.sub(r"\s+", " ", answer).strip().lower()
    thousands = re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        alone = thousands or f"{mark} " in f"{text} " or f" {mark}" in f" {text}"
        text = text.replace(mark, "" if alone else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [_NUMBERS.get(word, word) for word in text.split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(given: str, answers: Sequence[str]) -> float:
    """How right an answer is, from 0 to 1.

    With ten answers or more, one a person: `min(n / 3, 1)`, n the people among all but one who gave it, averaged over
    whom to leave out. With fewer, all of them are right answers: 1 for giving any of them.

    Raises:
        DataError: there are no answers to compare with.
    """
    if not answers:
        raise DataError(f"there is nothing to compare {given!r} with: give the question's answers")
    said = normalised(given)
    agreeing = sum(normalised(one) == said for one in answers)
    if len(answers) < VOTES:
        return float(agreeing > 0)
    # Those who agree leave one agreeing vote less when they are left out themselves.
    without, others = min(max(agreeing - 1, 0) / _NEEDED, 1.0), min(agreeing / _NEEDED, 1.0)
    return (agreeing * without + (len(answers) - agreeing) * others) / len(answers)
