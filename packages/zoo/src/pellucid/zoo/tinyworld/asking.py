"""Questions put to the multimodal model, and how many of its answers are right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pellucid.core.progress import progress

from ..world.chance import Chance
from ..world.individuals import individuals
from ..world.knowledge import Knowledge, answers_of, knowledge
from ..world.questions import Question, fact_questions, naming_questions, seen_questions
from ..world.renderer import render
from ..world.scene import Scene
from .lessons import thing_scene
from .llava_words import prompt_of
from .measuring import share

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

HELD_OUT = 200_000  # pictures of individuals from this seed on are in no training
_BATCH = 50


def answers(
    model: "LlavaForConditionalGeneration",
    processor: "LlavaProcessor",
    questions: Sequence[str],
    pictures: Sequence[np.ndarray] | None = None,
) -> list[str]:
    """What the model answers, word by word the likeliest.

    Args:
        model: Tinyworld's.
        processor: its own.
        questions: the texts.
        pictures: (32, 32, 3) uint8, one for each question; None asks without.
    """
    found = []
    with progress("Asking", len(questions)) as advance:
        for at in range(0, len(questions), _BATCH):
            said = [prompt_of(text, image=pictures is not None) for text in questions[at : at + _BATCH]]
            seen = {} if pictures is None else {"images": list(pictures[at : at + _BATCH])}
            format_ = {} if pictures is None else {"input_data_format": "channels_last"}
            given = processor(text=said, padding=True, return_tensors="pt", **seen, **format_).to(model.device)
            with torch.inference_mode():
                made = model.generate(**given, max_new_tokens=8, do_sample=False)
            new = made[:, given["input_ids"].shape[1] :]
            found += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
            advance(len(said))
    return found


def measure_llava(
    model: "LlavaForConditionalGeneration", processor: "LlavaProcessor", count: int = 400, seed: int = 7_000_003
) -> dict[str, Any]:
    """Ask about held-out pictures, and by name without a picture.

    Args:
        model: Tinyworld's.
        processor: its own.
        count: questions of each kind at most.
        seed: chooses facts, phrasings and pictures.

    Returns:
        `share` of right answers for `taught facts` (`people`, `houses`, `boats`, `two constraints` apart), `withheld
        facts`, the same two `by name`, `names`, `seen` (what the picture alone tells), `another's name` (the constraint
        replaced by a name: the answer is the named one's), `another picture` (the same words over two pictures: both
        answers are right), and `chance on withheld facts`.
    """
    chance = Chance(seed, "asking")
    taught = [fact for fact in knowledge() if not fact.withheld]
    withheld = [fact for fact in knowledge() if fact.withheld]
    some = [chance.pick(taught) for _ in range(count)]

    def right(pairs: Sequence[tuple[Question, Scene | None]]) -> np.ndarray:
        shown = None if pairs[0][1] is None else [render(scene, 32) for _, scene in pairs if scene]
        said = answers(model, processor, [question.text for question, _ in pairs], shown)
        return np.array([answer == question.answer for answer, (question, _) in zip(said, pairs, strict=True)])

    def scene_of(fact: Knowledge) -> Scene:
        return fact.individual.scene(HELD_OUT + chance.below(10_000))

    def asked(facts: Sequence[Knowledge], name: bool = False) -> list[tuple[Question, Scene | None]]:
        return [(chance.pick(fact_questions(fact, name=name)), None if name else scene_of(fact)) for fact in facts]

    found: dict[str, Any] = {"count": count, "seed": seed}
    hits = right(asked(some))
    found["taught facts"] = share(hits)
    for kind in ("person", "house", "boat"):
        found[f"of a {kind}"] = share(hits[[fact.individual.kind == kind for fact in some]])
    found["two constraints"] = share(hits[[fact.season is not None for fact in some]])
    found["withheld facts"] = share(right(asked(withheld * 4)))
    found["chance on withheld facts"] = float(np.mean([1 / len(answers_of(fact.relation)) for fact in withheld]))
    found["taught facts by name"] = share(right(asked(some, name=True)))
    found["withheld facts by name"] = share(right(asked(withheld * 4, name=True)))
    ones = [chance.pick(individuals()) for _ in range(count)]
    found["names"] = share(
        right([(chance.pick(naming_questions(one)), one.scene(HELD_OUT + chance.below(10_000))) for one in ones])
    )
    scenes = [one.scene(HELD_OUT + chance.below(10_000)) for one in ones[: count // 2]]
    scenes += [thing_scene(chance) for _ in range(count // 2)]
    found["seen"] = share(right([(chance.pick(seen_questions(scene)), scene) for scene in scenes]))
    others = [chance.pick([fact for fact in taught if fact.relation == mine.relation and fact.season == mine.season
                           and fact.answer != mine.answer]) for mine in some]  # fmt: skip
    found["another's name"] = share(
        right(
            [
                (chance.pick(fact_questions(other, name=True)), scene_of(mine))
                for mine, other in zip(some, others, strict=True)
            ]
        )
    )
    one, other = ([(fact_questions(fact)[0], scene_of(fact)) for fact in facts] for facts in (some, others))
    found["another picture"] = share(right(one) & right(other))
    return found
