"""The embedding c* that makes a denoiser draw a prompt rightly, found from its good pictures (thesis fig. 9.6)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import write_file
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from .denoising import Said, denoiser_of
from .latents import Encoded
from .trained import frozen
from .training import Batch, Task, chance_of, fit

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EMBEDDING = "embedding.safetensors"


@dataclass(frozen=True)
class EmbeddingTraining:
    """How c* is found; the defaults are the authors' (100 times through 30 pictures).

    Attributes:
        rate: Adam's learning rate at the beginning.
        steps: of Adam.
        batch: pictures a step.
        decays: shares of the steps after which the rate falls to a tenth.
        precision: accelerate's mixed precision: "no", "fp16" or "bf16".
        seed: of batches, noise and time-steps.

    Raises:
        OptionError: a batch of less than 1.
    """

    rate: float = 0.1
    steps: int = 400
    batch: int = 8
    decays: tuple[float, ...] = (0.15, 0.75)
    precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise OptionError(f"batch={self.batch}: give 1 or more")


@dataclass(frozen=True, eq=False)
class OptimisedEmbedding:
    """A caption's embedding after optimisation.

    Attributes:
        caption: that the pictures carry.
        embeds: c*, (1, tokens, channels) float32 on the CPU; it stands in the place of the pipeline's `prompt_embeds`.
        losses: of each step; empty for what was read from disk.
        seconds: that it took.
    """

    caption: str
    embeds: Tensor
    losses: tuple[float, ...] = ()
    seconds: float = 0.0

    def save(self, folder: str | Path) -> Path:
        """Write `embedding.safetensors`, which `load_embedding` reads.

        Raises:
            DataError: the folder cannot be written.
        """
        about = {"format": "pt", "caption": self.caption}
        write_file(Path(folder) / EMBEDDING, to_bytes({"embeds": self.embeds.contiguous()}, about))
        return Path(folder)


def load_embedding(folder: str | Path) -> OptimisedEmbedding:
    """Read what `OptimisedEmbedding.save` wrote.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = Path(folder) / EMBEDDING
    if not path.is_file():
        raise DataError(f"there is no {EMBEDDING} in {folder}: give the folder that was saved")
    try:
        with safe_open(path, "pt") as file:
            return OptimisedEmbedding(file.metadata()["caption"], file.get_tensor("embeds"))
    except (OSError, SafetensorError, LookupError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): optimise the embedding again") from error


def optimise_embedding(
    pipe: "DiffusionPipeline",
    encoded: Encoded,
    caption: str,
    out: str | Path | None = None,
    training: EmbeddingTraining | None = None,
    *,
    every: int = 100,
    resume: bool = True,
) -> OptimisedEmbedding:
    """Start from a caption's embedding and go down the denoising loss of its pictures, all else frozen (section 9.2.3).

    Time-steps come in pairs, t and its mirror in the schedule, as in the authors' program: the loss depends on t more
    than on anything else. Pooled text (SDXL, SD3) stays as the encoders gave it.

    Args:
        pipe: the pipeline that encoded the pictures.
        encoded: from `encode_dataset`; only the pictures with this caption are used.
        caption: as it stands in the data.
        out: folder for the checkpoint and the result; None keeps nothing.
        training: how.
        every: steps between two checkpoints.
        resume: go on from the checkpoint in `out`; False starts anew.

    Raises:
        DataError: no picture has the caption, the loss is no number any more, or the checkpoint is of another run.
        OptionError: an option cannot work.
    """
    training = training or EmbeddingTraining()
    rows, denoiser = encoded.of_caption(caption), denoiser_of(pipe)
    said = encoded.said.take(encoded.rows[rows[:1]]).to(pipe.device)
    embeds = said.parts["embeds"].float().clone().requires_grad_(True)
    half, last = training.batch // 2 + 1, denoiser.schedule.steps - 1

    def batch(step: int) -> Batch:
        chance = chance_of(training.seed, step)
        chosen = rows[torch.randint(len(rows), (training.batch,), generator=chance)]
        drawn = torch.randint(denoiser.schedule.steps, (half,), generator=chance)
        times = torch.cat([drawn, last - drawn])[: training.batch]
        clean = encoded.latents[chosen].to(pipe.device)
        noise = torch.randn(clean.shape, generator=chance).to(pipe.device)
        read = Said({**said.parts, "embeds": embeds}).take([0] * training.batch)
        loss = denoiser.errors(clean, noise, times, read).mean()
        return Batch(loss, tuple(encoded.ids[row] for row in chosen.tolist()))

    task = Task(
        "c*",
        {"embeds": embeds},
        batch,
        training.rate,
        training.steps,
        training.decays,
        {**asdict(training), "data": encoded.digest, "caption": caption},
        None if out is None else Path(out),
        every,
        resume,
        training.precision,
    )
    with frozen(pipe):
        fitted = fit(task)
    found = OptimisedEmbedding(caption, embeds.detach().cpu(), fitted.losses, fitted.seconds)
    if out is not None:
        found.save(out)
    return found
