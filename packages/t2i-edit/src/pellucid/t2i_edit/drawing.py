"""Pictures of prompts by a model as it is, or with edits."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.core.conditioning import encode
from pellucid.core.edits import WeightEdit
from pellucid.core.generation import generate
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.scorers import Pictures

from .jobs import Sampling

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def drawing(pipe: "DiffusionPipeline", sampling: Sampling) -> Any:
    """From prompts and seeds to pictures, with the model as it is at the time of the call."""

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> Pictures:
        found: Pictures = generate(
            pipe, encode(pipe, prompts), seeds, steps=sampling.steps, guidance=sampling.guidance, chunk=sampling.chunk
        )
        return found

    return draw


def generate_files(
    spec: PipelineSpec, prompts: Sequence[str], edits: Sequence[WeightEdit], sampling: Sampling, seed: int, out: Path
) -> list[Path]:
    """Draw each prompt, with edits applied together, and write `0000.png` and so on, and `captions.csv`."""
    import csv
    import io

    from pellucid.core.outfolder import write_file
    from PIL import Image

    pipe = load_pipeline(spec)
    draw, seeds = drawing(pipe, sampling), [seed + number for number in range(len(prompts))]
    if edits:
        together = edits[0]
        for other in edits[1:]:
            together = together + other
        with together.applied(pipe):
            pictures = draw(prompts, seeds)
    else:
        pictures = draw(prompts, seeds)
    paths, lines = [], io.StringIO()
    table = csv.writer(lines)
    table.writerow(["file", "caption"])
    for number, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        held = io.BytesIO()
        Image.fromarray(picture).save(held, "PNG")
        paths.append(out / f"{number:04d}.png")
        write_file(paths[-1], held.getvalue())
        table.writerow([paths[-1].name, prompt])
    write_file(out / "captions.csv", lines.getvalue().encode())
    return paths
