"""What attention moves for each question, with the model's answer: a sweep that contributions and predictions share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running
from pellucid.core.multimodal import LoadedMultimodal, load_multimodal
from pellucid.core.multimodal_anatomy import language_anatomy
from pellucid.core.pictures import PictureFile, picture_file
from pellucid.core.sweeps import Context, Sweep

from .answering import generate_answers
from .contributions import transfers
from .inputs import prepare
from .questions import VisualQuestion
from .vqa_accuracy import normalised

BATCH = 8


@dataclass(frozen=True)
class LookJob:
    """What every cell shares."""

    model: ModelSpec


@dataclass(frozen=True)
class LookCell:
    """A question without the path of its picture, and that picture."""

    question: VisualQuestion
    picture: PictureFile


@dataclass(frozen=True)
class LookRow:
    """What was seen of one question; norms as in `Transfer`.

    Attributes:
        answer: the model's own.
        right: whether it is one of the question's answers, normalised as for VQA.
        confidence: of its first token.
        image_to_constraint: `(layers, image tokens)`, row by row.
        image_together: `(layers,)`; so are the next two.
        constraint_to_last: of the constraint's last token.
        span_to_last: of all its tokens.
    """

    answer: str
    right: bool
    confidence: float
    image_to_constraint: list[float]
    image_together: list[float]
    constraint_to_last: list[float]
    span_to_last: list[float]

    def by_token(self) -> np.ndarray:
        """Contributions of the image's tokens to the constraint: (layers, image tokens)."""
        return np.array(self.image_to_constraint).reshape(len(self.image_together), -1)


def look(spec: ModelSpec, questions: Sequence[VisualQuestion], ledger: Path, running: Running) -> list[LookRow]:
    """Look at every question.

    Raises:
        DataError: a question has no visual constraint, or could not be asked.
    """
    for one in questions:
        if not one.visual:
            raise DataError(f"the question {one.question!r} has no visual constraint: give one")
    cells = [LookCell(replace(one, image=""), picture_file(one.image)) for one in questions]
    job = LookJob(spec.resolved())
    sweep: Sweep[Any, Any] = Sweep(
        _look, cells, version="2", row=LookRow, shared=job, setup=_load, batch=BATCH, cpus=running.cpus,
        gpus=running.gpus,
    )  # fmt: skip
    summary = sweep.run(ledger, running.workers, address=running.address)
    if summary.failed:
        cell, text = sweep.failures(ledger)[0]
        reason = text.strip().splitlines()[-1].partition("Error: ")[2]
        raise DataError(f"{cell.question.question!r} ({summary.failed} such) could not be asked: {reason}")
    return list(sweep.rows(ledger))


def _load(job: LookJob) -> LoadedMultimodal:
    return load_multimodal(job.model)


def _look(cells: Sequence[LookCell], context: Context) -> list[LookRow]:
    loaded: LoadedMultimodal = context.state
    questions = [replace(cell.question, image=cell.picture.path) for cell in cells]
    inputs = prepare(loaded, questions)
    anatomy = language_anatomy(loaded.model)
    seen = transfers(loaded.model, anatomy, inputs.model_inputs, [row.places for row in inputs.rows])
    said = generate_answers(loaded, questions)
    return [
        LookRow(
            answer.text,
            normalised(answer.text) in {normalised(one) for one in question.answers},
            answer.confidence,
            one.image_to_constraint.flatten().tolist(),
            one.image_together.tolist(),
            one.constraint_to_last.tolist(),
            one.span_to_last.tolist(),
        )
        for question, one, answer in zip(questions, seen, said, strict=True)
    ]
