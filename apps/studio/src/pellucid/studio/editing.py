"""A concept taken out of a text-to-image model or turned into another one, and pictures before and after (5.4, 5.9)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import DataError, OptionError

from .limits import words

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from pellucid.core.edits import WeightEdit
    from pellucid.t2i_edit.concepts import ConceptPrompts
    from PIL.Image import Image

ZOO = "zoo:tinyworld-sd"
KINDS = ("style", "object", "fact")
METHODS = {
    "cross-attention, all layers (as UCE)": "all-layers",
    "text encoder, first layer (DiffQuickFix)": "quickfix",
}
MOST = 4  # prompts
SEEN = 256  # pixels of a side that pictures of small models are shown with
RIDGES = {"all-layers": 256.0, "quickfix": 4.0}
"""Strong enough for Tinyworld's concepts, and weak enough to spare the others."""


@dataclass(frozen=True, eq=False)
class Made:
    """An edit, the files it was written to (the edit, then its LoRA), and what was done, in a sentence."""

    edit: "WeightEdit"
    files: tuple[Path, ...]
    summary: str


class Editing:
    """Edits a pipeline and draws with it; it is loaded when it is first needed, and stays as it is.

    Args:
        model: a text-to-image pipeline: `zoo:NAME`, a folder or a hub id.
        keep: a folder for edits.
        device: such as "cpu" or "cuda".
    """

    def __init__(self, model: str, keep: Path, device: str) -> None:
        self.model, self._keep, self._device = model, keep, device

    @cached_property
    def _pipe(self) -> "DiffusionPipeline":
        from pellucid.core.pipelines import PipelineSpec, load_pipeline

        return load_pipeline(PipelineSpec(self.model, device=self._device))

    @cached_property
    def _known(self) -> "dict[str, ConceptPrompts]":
        """Prompts of the drawn world's concepts; none for other models than the zoo's."""
        from pellucid.t2i_edit.concepts import read_concepts
        from pellucid.zoo import resolve

        if self.model != ZOO:
            return {}
        return {concept.concept: concept for concept in read_concepts(resolve("tinyworld-concepts"))}

    def concepts(self, kind: str) -> list[str]:
        """Concepts of a kind that the model is known to draw."""
        return [name for name, concept in self._known.items() if concept.kind == kind]

    def examples(self, concept: str, kind: str) -> list[str]:
        """Prompts to look at: some with the concept, and one with another of its kind, which has to stay."""
        others = [name for name in self.concepts(kind) if name != concept]
        held = self._known[concept].prompts if concept in self._known else ()
        return [*held[1 :: max(1, len(held) // 3)][:3], *(self._known[name].prompts[2] for name in others[1:2])]

    def make(self, concept: str, kind: str, to: str | None, method: str) -> Made:
        """Solve for an edit and write it, also as a LoRA.

        Args:
            concept: words that stand in prompts, such as "van gogh".
            kind: "style", "object" or "fact".
            to: what takes its place; None takes it out.
            method: "all-layers" or "quickfix".

        Raises:
            DataError: a text is empty or too long, the new concept is the old one, or the zoo's model has no prompts of
                the concept.
            OptionError: the kind or the method are unknown, or the pipeline does not have what the method edits.
        """
        from pellucid.t2i_edit.edit_report import make_edit

        if method not in RIDGES:
            raise OptionError(f"there is no method {method!r}: choose among {', '.join(RIDGES)}")
        prompts = self._prompts(words(concept, "concept"), kind, None if to is None else words(to, "new concept"))
        pipe, started = self._pipe, time.monotonic()
        edit = make_edit(pipe, [prompts], method, (), RIDGES[method], True)
        seconds = time.monotonic() - started
        folder = self._keep / str(time.time_ns())
        folder.mkdir(parents=True, exist_ok=True)
        files = (edit.save(folder / "edit.safetensors"), *edit.to_lora(pipe, folder / "lora"))
        done = _taken_out(prompts) if to is None else f"turned into “{to.strip()}”"
        return Made(
            edit, files, f"“{prompts.concept}” {done}: {len(edit.updates)} matrices changed in {seconds:.1f} s."
        )

    def draw(
        self, prompts: Sequence[str], seed: int, steps: int, guidance: float, edit: "WeightEdit | None" = None
    ) -> "list[Image]":
        """Draw a picture a prompt, the same for the same seed, with an edit or as the model is.

        Raises:
            DataError: there is no prompt, there are more than four, or one is too long.
        """
        from pellucid.t2i_edit.drawing import drawing
        from pellucid.t2i_edit.jobs import Sampling

        texts = checked_prompts(prompts)
        draw = drawing(self._pipe, Sampling(steps=steps, guidance=guidance, chunk=MOST * 2))
        seeds = [seed] * len(texts)
        if edit is None:
            return [_shown(picture) for picture in draw(texts, seeds)]
        with edit.applied(self._pipe):
            return [_shown(picture) for picture in draw(texts, seeds)]

    def _prompts(self, concept: str, kind: str, to: str | None) -> "ConceptPrompts":
        from pellucid.t2i_edit.concepts import concept_prompts

        if to is not None and to.lower() == concept.lower():
            raise DataError(f"{concept!r} is to turn into itself: give another new concept")
        if kind not in KINDS or not self._known:
            return concept_prompts(concept, kind, target=to)
        known = self._known.get(concept.lower())
        if known is None or known.kind != kind:
            raise DataError(
                f"{self.model} has no prompts of the {kind} {concept!r}: choose among {', '.join(self.concepts(kind))}"
            )
        if to is None:
            return known
        return replace(known, targets=tuple(prompt.replace(known.concept, to) for prompt in known.prompts))


def checked_prompts(prompts: Sequence[str]) -> list[str]:
    """Return the prompts, without the white space around them.

    Raises:
        DataError: there is no prompt, there are more than four, or one is empty or too long.
    """
    if not 0 < len(prompts) <= MOST:
        raise DataError(f"{len(prompts)} prompts: give 1 to {MOST}, one a line")
    return [words(prompt, "prompt") for prompt in prompts]


def _taken_out(prompts: "ConceptPrompts") -> str:
    """Say what stands in for a concept that is taken out, where all of its prompts agree."""
    put, *others = set(prompts.replacements)
    swapped = tuple(prompt.replace(prompts.concept, put) for prompt in prompts.prompts)
    return "taken out" if others or swapped != prompts.targets else f"taken out, “{put}” stands in for it"


def _shown(picture: Any) -> "Image":
    from PIL import Image

    image = Image.fromarray(picture)
    scale = SEEN // max(image.size)
    return image if scale < 2 else image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
