"""Corrupted inputs for tracing: the constraint in other words (thesis 6.2.2), or noise on embeddings (11.5.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.multimodal_anatomy import LanguageAnatomy, language_anatomy, language_inputs
from torch import Tensor

from .inputs import Answerer, Row, prepare, tokenizer_of, tokens_of
from .prompts import DEFAULT_STYLE, Style, render
from .questions import VisualQuestion


@dataclass(frozen=True)
class TraceProbe:
    """One question with its answer, clean and corrupted, as inputs of the language model.

    Attributes:
        anatomy: of the language model inside the model.
        clean: what the language model is called with, one row.
        corrupted: the same of the corrupted question; several rows where noise was drawn several times.
        clean_row: places of the clean prompt.
        row: places of the corrupted prompt.
        partners: position in the corrupted prompt -> position in the clean one that stands for the same.
    """

    anatomy: LanguageAnatomy
    clean: Mapping[str, Any]
    corrupted: Mapping[str, Any]
    clean_row: Row
    row: Row
    partners: Mapping[int, int]


def substituted(question: VisualQuestion, phrases: Mapping[str, str]) -> VisualQuestion:
    """The question with some of its constraints in other words, such as "this person" -> "Taj Mahal".

    Raises:
        DataError: a phrase stands for what is none of the question's constraints, is empty, or changes nothing.
    """
    text = question.question
    for constraint, phrase in phrases.items():
        if constraint not in (question.visual, *question.textual) or constraint not in text:
            raise DataError(f"{constraint!r} is no constraint of {text!r}: name one of its constraints")
        if not phrase.strip() or phrase == constraint:
            raise DataError(f"the phrase {phrase!r} cannot stand for {constraint!r}: give other words")
    # All at once, so that no phrase is looked for in another one.
    for place, constraint in enumerate(sorted(phrases, key=len, reverse=True)):
        text = text.replace(constraint, f"\0{place}\0", 1)
    for place, constraint in enumerate(sorted(phrases, key=len, reverse=True)):
        text = text.replace(f"\0{place}\0", phrases[constraint])
    return replace(
        question,
        question=text,
        visual=phrases.get(question.visual, question.visual),
        textual=tuple(phrases.get(one, one) for one in question.textual),
    )


def same_length_phrase(
    loaded: Answerer,
    question: VisualQuestion,
    candidates: Sequence[str],
    *,
    constraint: str | None = None,
    style: Style = DEFAULT_STYLE,
) -> str | None:
    """The first candidate that takes as many tokens in the prompt as the constraint does, and moves no other token.

    Args:
        loaded: the model, whose tokenizer counts.
        question: with the constraint in it.
        candidates: phrases, in the order of preference; those that are what the constraint says are passed over.
        constraint: which one is to be replaced; the visual one by default.
        style: how prompts are written.

    Returns:
        None if no candidate fits.
    """
    constraint = question.visual if constraint is None else constraint
    wanted = _counts(loaded, question, style)
    for phrase in candidates:
        if not phrase.strip() or phrase in (constraint, question.entity):
            continue
        if _counts(loaded, substituted(question, {constraint: phrase}), style) == wanted:
            return phrase
    return None


def _counts(loaded: Answerer, question: VisualQuestion, style: Style) -> tuple[int, ...]:
    """How many tokens there are before, in and after each constraint."""
    prompt = render(loaded, question, None, style, picture=bool(question.image))
    tokenizer = tokenizer_of(loaded)
    offsets = tokenizer(prompt.text, return_offsets_mapping=True)["offset_mapping"]
    spans = [span for span in (prompt.visual, *prompt.textual) if span is not None]
    held = [tokens_of(prompt.text, offsets, span) for span in spans]
    return (len(offsets), *(end for places in held for end in (places[0], places[-1])))


def replacement_probe(
    loaded: Answerer,
    question: VisualQuestion,
    answer: str,
    phrases: Mapping[str, str],
    *,
    images: Sequence[Any] | None = None,
    style: Style = DEFAULT_STYLE,
) -> TraceProbe:
    """Corrupt a question by putting constraints in other words, so that the picture is not needed any more.

    Phrases of as many tokens as their constraints keep every token in its place. Others are aligned: a constraint's
    last token with the phrase's last one and so on towards the front, and the words between the constraints one by one.

    Args:
        loaded: the model.
        question: what is asked.
        answer: whose probability is followed: as a rule the one that the model gives.
        phrases: constraint -> words in its place.
        images: the picture, in the place of the one that the question names.
        style: how prompts are written.

    Raises:
        DataError: a phrase does not fit, and as `prepare`.
    """
    if not phrases:
        raise OptionError(f"nothing is put in the place of {question.visual!r}: give phrases")
    anatomy = language_anatomy(loaded.model)
    both = [question, substituted(question, phrases)]
    rows, given = [], []
    for one in both:
        inputs = prepare(loaded, [one], answers=[answer], images=images, style=style)
        rows.append(inputs.rows[0])
        given.append(plain_inputs(anatomy, inputs.model_inputs))
    return TraceProbe(anatomy, given[0], given[1], rows[0], rows[1], partners(rows[0], rows[1]))


def noise_probe(
    loaded: Answerer,
    question: VisualQuestion,
    answer: str,
    *,
    noise: float = 3.0,
    draws: int = 1,
    seed: int = 0,
    textual: bool = False,
    images: Sequence[Any] | None = None,
    style: Style = DEFAULT_STYLE,
) -> TraceProbe:
    """Corrupt a question by Gaussian noise on the embeddings of the picture and of its constraint (thesis 11.5.2).

    Args:
        loaded: the model.
        question: what is asked.
        answer: whose probability is followed.
        noise: its standard deviation, in standard deviations of the embeddings of the picture, or of the constraint.
        draws: how many times noise is drawn; probabilities are means over them.
        seed: of the noise.
        textual: also on textual constraints.
        images: the picture, in the place of the one that the question names.
        style: how prompts are written.

    Raises:
        OptionError: noise or draws are not above 0.
        DataError: there is nothing to put noise on, and as `prepare`.
    """
    if noise <= 0 or draws < 1:
        raise OptionError(f"noise is {noise} and draws {draws}: give both above 0")
    anatomy = language_anatomy(loaded.model)
    inputs = prepare(loaded, [question], answers=[answer], images=images, style=style)
    row = inputs.rows[0]
    clean = plain_inputs(anatomy, inputs.model_inputs)
    groups = [group for group in (row.image, row.visual, *(row.textual if textual else ())) if group]
    if not groups:
        raise DataError(f"the question {question.question!r} has neither picture nor constraint to put noise on")
    embeds: Tensor = clean["inputs_embeds"]
    noisy = embeds.repeat(draws, 1, 1)
    generator = torch.Generator().manual_seed(seed)
    for group in groups:
        places = list(group)
        part = embeds[0, places].float()
        drawn = torch.randn(draws, *part.shape, generator=generator).to(part.device)
        # One number for all channels, as in the standard procedure.
        noisy[:, places] += (drawn * noise * part.std(correction=0)).to(noisy.dtype)
    corrupted = repeated(clean, draws) | {"inputs_embeds": noisy}
    same = {place: place for place in range(embeds.shape[1])}
    return TraceProbe(anatomy, clean, corrupted, row, row, same)


def partners(clean: Row, corrupted: Row) -> dict[int, int]:
    """For each position of a corrupted prompt the one in the clean prompt that stands for the same.

    Raises:
        DataError: the prompts differ in more than their constraints.
    """
    pairs: dict[int, int] = {}
    spans = sorted(zip(_constraints(corrupted), _constraints(clean), strict=True))
    here, there = corrupted.start, clean.start
    for ours, theirs in spans:
        _pair(pairs, range(here, ours[0]), range(there, theirs[0]), corrupted)
        pairs.update(zip(reversed(ours), reversed(theirs), strict=False))
        here, there = ours[-1] + 1, theirs[-1] + 1
    _pair(pairs, range(here, _stop(corrupted)), range(there, _stop(clean)), corrupted)
    return dict(sorted(pairs.items()))


def _pair(pairs: dict[int, int], ours: range, theirs: range, row: Row) -> None:
    if len(ours) != len(theirs):
        raise DataError(
            f"the tokens around the constraint change with it in {row.question.question!r}: take another phrase"
        )
    pairs.update(zip(ours, theirs, strict=True))


def _constraints(row: Row) -> list[tuple[int, ...]]:
    """In the order of visual, textual; overlapping ones would be paired twice."""
    found = [span for span in (row.visual, *row.textual) if span]
    flat = [place for span in found for place in span]
    if len(flat) != len(set(flat)):
        raise DataError(f"constraints of {row.question.question!r} share tokens: name them apart")
    return found


def _stop(row: Row) -> int:
    return (row.answer[-1] if row.answer else row.last) + 1


def plain_inputs(anatomy: LanguageAnatomy, model_inputs: dict[str, Tensor]) -> dict[str, Any]:
    """What the language model is called with for one unpadded prompt: embeddings, and positions where it gets them.

    Raises:
        OptionError: the language model is told more than that, such as which tokens see each other both ways.
    """
    given = language_inputs(anatomy, model_inputs)
    mask = given.pop("attention_mask", None)
    kept: dict[str, Any] = {name: given.pop(name) for name in ("inputs_embeds", "position_ids") if name in given}
    more = [name for name, value in given.items() if isinstance(value, Tensor | dict)]
    if (mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2)) or more:
        raise OptionError(
            f"{type(anatomy.model).__name__} tells its language model {more[0] if more else 'a mask of its own'}, "
            "which cannot be traced row by row: take a model that shows pictures as plain tokens"
        )
    return kept


def repeated(given: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Inputs of the language model with all rows several times, one set after the other."""
    found = {}
    for name, value in given.items():
        repeats = [1] * value.ndim
        repeats[-2 if name == "position_ids" else 0] = times
        found[name] = value.repeat(repeats)
    return found
