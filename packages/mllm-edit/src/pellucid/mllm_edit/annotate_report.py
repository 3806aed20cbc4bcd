"""The report of the annotator: constraints that a chat model marked, and a file of what it was not sure of."""

from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running
from pellucid.core.report import Report, Section, Table

from .annotator import EXAMPLES, AnnotationJob, annotated, annotation_sweep, annotations_in, write_review
from .asking_files import chosen_questions
from .questions import write_questions

SURE, REVIEW = "questions.jsonl", "review.jsonl"


def annotate_report(
    spec: ModelSpec, questions: Path, out: Path, seed: int, *, votes: int = 3, running: Running
) -> Report:
    """Mark the constraints of a file's questions; `out` gets questions.jsonl and review.jsonl."""
    asked = chosen_questions(questions, visual=False)
    job = AnnotationJob(spec.resolved(), EXAMPLES, votes, seed)
    sweep = annotation_sweep(job, asked, cpus=running.cpus, gpus=running.gpus)
    summary = sweep.run(out / "ledger", running.workers, address=running.address)
    if summary.failed == len({one.question for one in asked}):
        _, text = sweep.failures(out / "ledger")[0]
        raise DataError(f"no question could be marked: {text.strip().splitlines()[-1].partition('Error: ')[2]}")
    found = annotations_in(sweep, out / "ledger")
    sure, unsure = annotated(asked, found)
    if sure:
        write_questions(sure, out / SURE)
    write_review(out / REVIEW, unsure, found)
    known = [one for one in asked if one.visual]
    given = {one.question: one.visual for one in known}
    agree = sum(one.visual == given[one.question] for one in sure if one.question in given)
    told = f"{spec.name} marked {len(sure)} of {len(asked)} questions surely; {len(unsure)} wait in {REVIEW}."
    if known:
        marked = sum(one.question in given for one in sure)
        told += f" Of {marked} whose constraint was known already, {agree} agree."
    rows: list[list[Any]] = [[one.question, one.visual, "; ".join(one.textual), "sure"] for one in sure]
    rows += [[one.question, one.visual, "; ".join(one.textual), "to review"] for one in unsure]
    columns = ["question", "visual constraint", "textual constraints", "state"]
    return Report(
        title="Constraints of questions",
        command="mllm annotate",
        config={"model": spec.name, "questions": len(asked), "votes": votes},
        seed=seed,
        device=spec.device or "cpu",
        summary=told,
        sections=[Section("Annotations", [told], [], [Table("annotations", columns, rows[:200], "The first 200.")])],
        results={"sure": len(sure), "unsure": len(unsure), "known": len(known), "agree": agree},
    )
