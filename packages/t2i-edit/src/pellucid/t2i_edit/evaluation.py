"""What an edit does: scores before and after on what it is for and on what it should leave alone."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pellucid.core.errors import DataError, OptionError
from pellucid.core.scorers import Pictures, Scorer, check_pictures
from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean

from .concepts import ConceptPrompts

Wanted = Literal["down", "up", "same"]
Draw = Callable[[Sequence[str], Sequence[int]], Pictures]
"""From prompts and one seed for each to pictures, with the model as it is at the time of the call."""


@dataclass(frozen=True)
class Group:
    """Prompts of one kind to measure an edit on.

    Attributes:
        name: such as "edited", "paraphrased" or "surrounding: monet".
        prompts: what is drawn.
        captions: what each picture is scored against, such as "van gogh".
        wanted: what the edit shall do to the scores.

    Raises:
        DataError: there are no prompts, or captions are of another number.
    """

    name: str
    prompts: tuple[str, ...]
    captions: tuple[str, ...]
    wanted: Wanted

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.captions):
            raise DataError(
                f"the group {self.name!r} has {len(self.prompts)} prompts and {len(self.captions)} captions: "
                "give at least one prompt, and each its caption"
            )


@dataclass(frozen=True)
class Change:
    """A group's mean score before and after an edit, in the scorer's unit, with bootstrap intervals.

    Attributes:
        group: its name.
        wanted: what the edit shall do to the scores.
        count: pictures on each side.
        before: of the clean model.
        after: of the edited model.
        difference: after minus before, over pairs of the same prompt and seed.
    """

    group: str
    wanted: Wanted
    count: int
    before: Estimate
    after: Estimate
    difference: Estimate


def concept_groups(
    edited: ConceptPrompts,
    *,
    paraphrased: ConceptPrompts | None = None,
    surrounding: Sequence[ConceptPrompts] = (),
    against: Literal["concept", "prompt"] = "concept",
) -> tuple[Group, ...]:
    """Return the groups to measure a concept's edit on.

    Pictures of a style or an object are scored against the concept, and shall fit it less; those of a fact against
    the new answer, and shall fit it more (against whole prompts also the old one, and shall fit it less). Pictures of
    surrounding concepts (Monet after Van Gogh is erased) are scored against what they show, and shall fit it as before.

    Args:
        edited: the concept that was edited; best with prompts that the edit has not seen.
        paraphrased: the same concept in other words.
        surrounding: other concepts, of any kind.
        against: score against the concept's words (thesis 5.4.2), or against the whole prompt and, for the new answer,
            the whole target (thesis 5.8.1).

    Raises:
        OptionError: a surrounding concept is the edited one.
    """
    whole = against == "prompt"
    own = [("edited", edited)] if paraphrased is None else [("edited", edited), ("paraphrased", paraphrased)]
    groups = []
    for name, found in own:
        if found.kind == "fact":
            groups.append(Group(name, found.prompts, found.targets if whole else found.replacements, "up"))
            if whole:
                groups.append(Group(f"{name}: the old answer", found.prompts, found.prompts, "down"))
        else:
            groups.append(Group(name, found.prompts, _shown(found, whole), "down"))
    for other in surrounding:
        if other.concept.lower() == edited.concept.lower():
            raise OptionError(f"{other.concept!r} is the concept that is edited: surrounding concepts are others")
        groups.append(Group(f"surrounding: {other.concept}", other.prompts, _shown(other, whole), "same"))
    return tuple(groups)


def _shown(found: ConceptPrompts, whole: bool) -> tuple[str, ...]:
    return found.prompts if whole else (found.concept,) * len(found)


def draw_both(
    draw: Draw, edited: Callable[[], AbstractContextManager[Any]], prompts: Sequence[str], seeds: Sequence[int]
) -> tuple[Pictures, Pictures]:
    """Draw each prompt with each seed by the clean and by the edited model, from the same noise.

    Args:
        draw: see `Draw`.
        edited: gives a context in which the model is edited, such as `lambda: edit.applied(pipe)`.
        prompts: at least one.
        seeds: at least one; all are used for each prompt.

    Returns:
        Clean and edited pictures, (prompts * seeds, h, w, 3): the seeds of the first prompt first.

    Raises:
        OptionError: there are no prompts or no seeds.
    """
    if not prompts or not seeds:
        raise OptionError(f"there are {len(prompts)} prompts and {len(seeds)} seeds to draw: give at least one of each")
    texts = [prompt for prompt in prompts for _ in seeds]
    noise = [seed for _ in prompts for seed in seeds]
    clean = draw(texts, noise)
    with edited():
        after = draw(texts, noise)
    return clean, after


def score_change(
    group: Group, clean: Pictures, edited: Pictures, scorer: Scorer, *, seed: int, level: float = 0.95
) -> Change:
    """Score a group's pictures before and after an edit.

    Pictures of one prompt under several seeds are not independent: their scores are averaged first, and the intervals
    come from resampling prompts.

    Args:
        group: what was drawn.
        clean: (prompts * seeds, h, w, 3) in the order of `draw_both`.
        edited: the same of the edited model.
        scorer: see `pellucid.t2i_edit.scorers`.
        seed: of the bootstrap.
        level: of the intervals.

    Raises:
        DataError: pictures are of the wrong type or number, or a score is not finite.
    """
    check_pictures(clean)
    check_pictures(edited)
    seeds, rest = divmod(len(clean), len(group.prompts))
    if rest or not seeds or len(edited) != len(clean):
        raise DataError(
            f"the group {group.name!r} has {len(group.prompts)} prompts, {len(clean)} clean and {len(edited)} edited "
            "pictures: give the same number for each prompt on both sides"
        )
    captions = [caption for caption in group.captions for _ in range(seeds)]
    before, after = (
        np.asarray(scorer(pictures, captions), dtype=np.float64).reshape(-1, seeds).mean(axis=1)
        for pictures in (clean, edited)
    )
    return Change(
        group.name,
        group.wanted,
        len(clean),
        bootstrap_mean(before, seed, level=level),
        bootstrap_mean(after, seed, level=level),
        bootstrap_difference(after, before, seed, paired=True, level=level),
    )


def evaluate(
    groups: Sequence[Group],
    draw: Draw,
    edited: Callable[[], AbstractContextManager[Any]],
    scorers: Mapping[str, Scorer],
    *,
    seeds: Sequence[int],
    seed: int = 0,
) -> dict[str, tuple[Change, ...]]:
    """Draw every group by the clean and the edited model, and score the pictures.

    Args:
        groups: see `concept_groups`.
        draw: see `Draw`.
        edited: see `draw_both`.
        scorers: by name; all of them see the same pictures.
        seeds: of the noise; all are used for each prompt.
        seed: of the bootstrap.

    Returns:
        For each scorer a change for each group, in the order of the groups.

    Raises:
        DataError: see `score_change`.
        OptionError: there are no seeds.
    """
    found: dict[str, list[Change]] = {name: [] for name in scorers}
    for group in groups:
        clean, after = draw_both(draw, edited, group.prompts, seeds)
        for name, scorer in scorers.items():
            found[name].append(score_change(group, clean, after, scorer, seed=seed))
    return {name: tuple(changes) for name, changes in found.items()}
