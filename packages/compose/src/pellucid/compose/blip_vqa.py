"""Disentangled BLIP-VQA (T2I-CompBench): a question for each noun chunk, and the chances of "yes" multiplied."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError, OptionError
from pellucid.core.scorers import Pictures, Scorer, check_pictures, load_scorer
from pellucid.core.statistics import Estimate, bootstrap_mean

from .noun_chunks import Chunker, noun_chunks
from .vqa_models import VqaModel, load_vqa

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Formula:
    """A version of the benchmark's formula.

    Attributes:
        version: its name.
        skipped: chunks that no question is asked about.
        most: questions asked at most, the first ones.
        decimals: each question's probability is rounded to as many before the product, as the benchmark writes it.
    """

    version: str
    skipped: tuple[str, ...]
    most: int = 8
    decimals: int = 4


FORMULAS = {
    "t2i-compbench-1": Formula("t2i-compbench-1", ()),
    "t2i-compbench-2": Formula("t2i-compbench-2", ("top", "the side", "the left", "the right")),
}
"""As first published, and as later revised, when words of place ceased to be asked about."""

DEFAULT_FORMULA = "t2i-compbench-2"


@dataclass(frozen=True)
class BlipVqaScores:
    """Scores of pictures with what they come from.

    Attributes:
        version: of the formula.
        scores: (n,) from 0 to 1.
        questions: each picture's questions, in the order of its prompt.
        probabilities: for each picture one chance of "yes" a question.
    """

    version: str
    scores: Floats
    questions: tuple[tuple[str, ...], ...]
    probabilities: tuple[Floats, ...]

    def mean(self, seeds: int = 1, seed: int = 0, draws: int = 2000) -> Estimate:
        """The mean score with its bootstrap interval over prompts.

        Args:
            seeds: how many pictures in succession are of one prompt; they are averaged first, as they are not
                independent.
            seed: of the resamples.
            draws: how many resamples.

        Raises:
            OptionError: the pictures do not come in groups of that size.
        """
        if seeds < 1 or len(self.scores) % seeds:
            raise OptionError(f"{len(self.scores)} pictures are no whole number of groups of {seeds}: give the seeds")
        return bootstrap_mean(self.scores.reshape(-1, seeds).mean(1), seed, draws)


def vqa_questions(prompt: str, formula: Formula | str = DEFAULT_FORMULA, chunker: Chunker = noun_chunks) -> list[str]:
    """The questions about a prompt: "{chunk}?" for each noun chunk, such as "a red book?".

    Args:
        prompt: the text.
        formula: a version, or the name of one.
        chunker: the rules of `noun_chunks`, or `spacy_chunks()`, which the benchmark uses.

    Raises:
        OptionError: there is no such version.
        DataError: the prompt has no noun chunk to ask about.
    """
    version = find_formula(formula)
    chunks = [chunk for chunk in chunker(prompt) if chunk not in version.skipped][: version.most]
    if not chunks:
        raise DataError(f"the prompt {prompt!r} has no noun chunk to ask about: leave it out")
    return [f"{chunk}?" for chunk in chunks]


def blip_vqa(
    pictures: Pictures,
    prompts: Sequence[str],
    model: VqaModel,
    *,
    formula: Formula | str = DEFAULT_FORMULA,
    chunker: Chunker = noun_chunks,
) -> BlipVqaScores:
    """Score how well pictures bind the attributes that their prompts name.

    A picture's score is the product over questions q of p(yes | picture, q), where p(yes) is the chance of "yes"
    among "yes" and "no" (T2I-CompBench, section 4.1; thesis section 9.2.2).

    Args:
        pictures: (n, h, w, 3) uint8.
        prompts: one a picture.
        model: from `load_vqa`; the benchmark's is BLIP's large VQA model.
        formula: a version, or the name of one.
        chunker: see `vqa_questions`.

    Raises:
        OptionError: there is no such version of the formula.
        DataError: pictures and prompts do not pair up, or a prompt has no noun chunk.
        ModelError: the model's probabilities are not finite.
    """
    check_pictures(pictures, prompts)
    version = find_formula(formula)
    asked = {prompt: vqa_questions(prompt, version, chunker) for prompt in dict.fromkeys(prompts)}
    questions = [asked[prompt] for prompt in prompts]
    found = model.yes_probabilities(pictures, questions)
    rounded = [np.round(chances, version.decimals) for chances in found]
    scores = np.array([chances.prod() for chances in rounded], dtype=np.float64)
    return BlipVqaScores(version.version, scores, tuple(map(tuple, questions)), tuple(found))


def vqa_scorer(model: VqaModel, formula: Formula | str = DEFAULT_FORMULA, chunker: Chunker = noun_chunks) -> Scorer:
    """BLIP-VQA as a scorer of pictures by captions, as `load_scorer` returns them."""
    return lambda pictures, captions: blip_vqa(pictures, captions, model, formula=formula, chunker=chunker).scores


def load_judge(name: str, device: str = "cpu") -> Scorer:
    """Return a scorer by its name.

    Args:
        name: `vqa:MODEL` for BLIP-VQA by whatever `load_vqa` loads, or what `load_scorer` takes.
        device: where the model runs.

    Raises:
        OptionError: there is no such scorer or model.
        ModelError: the model cannot be loaded.
    """
    kind, _, rest = name.partition(":")
    return vqa_scorer(load_vqa(rest, device=device)) if kind == "vqa" and rest else load_scorer(name, device)


def find_formula(formula: Formula | str) -> Formula:
    """A version of the formula by its name.

    Raises:
        OptionError: there is no such version.
    """
    if isinstance(formula, Formula):
        return formula
    if formula not in FORMULAS:
        raise OptionError(f"there is no version {formula!r} of the BLIP-VQA formula: choose {', '.join(FORMULAS)}")
    return FORMULAS[formula]
