"""Train CLP, WiCLP and their alternatives with the denoising loss, all else frozen (thesis 9.2.4 and 9.2.8)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from pellucid.core.errors import OptionError
from pellucid.core.text_anatomy import text_anatomies
from torch import Tensor, nn

from .denoising import Said, denoiser_of, encode_captions
from .latents import Encoded
from .projection import TextProjection, text_projection
from .trained import Trained, borrowed, frozen
from .training import Batch, Task, chance_of, fit

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Method = Literal["wiclp", "clp", "text-encoder", "last-layers+wiclp"]


@dataclass(frozen=True)
class ProjectionTraining:
    """What is trained, and how; the defaults are the authors'.

    Attributes:
        method: "wiclp"; "clp", which is WiCLP with a window of 0; "text-encoder", all weights of the text encoders and
            no projection; "last-layers+wiclp", the last layers of the text encoders and WiCLP.
        window: s of 9.2.4, tokens on either side; "clp" and "text-encoder" do not read it.
        rate: Adam's learning rate at the beginning.
        steps: of Adam.
        batch: pictures a step.
        decays: shares of the steps after which the rate falls to a tenth.
        last_layers: of each text encoder, for "last-layers+wiclp". SDXL and SD3 do not read the last one's output.
        precision: accelerate's mixed precision: "no", "fp16" or "bf16".
        seed: of batches, noise and time-steps.

    Raises:
        OptionError: an unknown method, or a number below its least.
    """

    method: Method = "wiclp"
    window: int = 2
    rate: float = 1e-5
    steps: int = 25_000
    batch: int = 8
    decays: tuple[float, ...] = (0.4, 0.64)
    last_layers: int = 2
    precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise OptionError(f"method {self.method!r} is not one of {', '.join(get_args(Method))}")
        if self.batch < 1 or self.last_layers < 1:
            raise OptionError(f"batch={self.batch}, last_layers={self.last_layers}: give 1 or more of both")


def train_projection(
    pipe: "DiffusionPipeline",
    encoded: Encoded,
    out: str | Path | None = None,
    training: ProjectionTraining | None = None,
    *,
    every: int = 500,
    resume: bool = True,
) -> Trained:
    """Train on encoded pictures; the pipeline is left as it was.

    The loss is the denoiser's own, |eps - eps_theta(z_t, Proj(c), t)|^2 with uniform time-steps, for noise, velocity
    and flow alike. CLP and WiCLP read latents and embeddings as they were encoded; where text encoders are trained,
    captions are encoded at each step. With float32 weights on one CPU thread, a run that was killed ends with the same
    bits.

    Args:
        pipe: the pipeline that encoded the pictures; on its device the training runs.
        encoded: from `encode_dataset`.
        out: folder for checkpoints and the result (`load_trained` reads it); None keeps nothing.
        training: what and how.
        every: steps between two checkpoints.
        resume: go on from the checkpoint in `out`; False starts anew.

    Raises:
        OptionError: an option cannot work with this pipeline.
        DataError: no pictures, the loss is no number any more (step and pictures are named), or the checkpoint is of
            another run.
    """
    training = training or ProjectionTraining()
    folder = None if out is None else Path(out)
    with frozen(pipe), _trainable(pipe, training) as (projection, tuned):
        parameters: dict[str, Tensor] = dict(tuned)
        if projection is not None:
            parameters |= dict(projection.named_parameters())
        task = Task(
            training.method,
            parameters,
            _batches(pipe, encoded, training, projection, bool(tuned)),
            training.rate,
            training.steps,
            training.decays,
            {**asdict(training), "data": encoded.digest},
            folder,
            every,
            resume,
            training.precision,
        )
        fitted = fit(task)
        weights = {name: weight.detach().clone() for name, weight in tuned.items()}
    if projection is not None:
        projection.requires_grad_(False)
    trained = Trained(projection, weights, fitted.losses, fitted.seconds)
    if folder is not None:
        trained.save(folder)
    return trained


@contextmanager
def _trainable(
    pipe: "DiffusionPipeline", training: ProjectionTraining
) -> Iterator[tuple[TextProjection | None, dict[str, nn.Parameter]]]:
    """A projection at zero, and the text encoders' weights that are trained, each asking for gradients."""
    window = 0 if training.method == "clp" else training.window
    projection = None if training.method == "text-encoder" else text_projection(pipe, window)
    tuned = _tuned(pipe, training) if training.method in ("text-encoder", "last-layers+wiclp") else {}
    if any(part.dtype != torch.float32 for part in tuned.values()):
        raise OptionError(f"{training.method} trains the text encoders' own weights: load the pipeline in float32")
    with borrowed(tuned):
        for part in tuned.values():
            part.requires_grad_(True)
        yield projection, tuned


def _tuned(pipe: "DiffusionPipeline", training: ProjectionTraining) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for anatomy in text_anatomies(pipe):
        last = range(max(0, anatomy.layers - training.last_layers), anatomy.layers)
        # "...layers.3.self_attn" and "...block.3.layer.0.SelfAttention" both belong to what ends on their first number.
        layers = tuple(_up_to_number(anatomy.attention(layer).module) for layer in last)
        for name, part in anatomy.encoder.named_parameters():
            if training.method == "text-encoder" or name.startswith(layers):
                found[f"{anatomy.component}.{name}"] = part
    return found


def _up_to_number(module: str) -> str:
    pieces = module.split(".")
    first = next(place for place, piece in enumerate(pieces) if piece.isdigit())
    return ".".join(pieces[: first + 1]) + "."


def _batches(
    pipe: "DiffusionPipeline",
    encoded: Encoded,
    training: ProjectionTraining,
    projection: TextProjection | None,
    encoding: bool,
) -> Callable[[int], Batch]:
    """The loss of each step."""
    denoiser, device = denoiser_of(pipe), pipe.device

    def batch(step: int) -> Batch:
        chance = chance_of(training.seed, step)
        chosen = torch.randint(len(encoded), (training.batch,), generator=chance)
        times = torch.randint(denoiser.schedule.steps, (training.batch,), generator=chance)
        clean = encoded.latents[chosen].to(device)
        noise = torch.randn(clean.shape, generator=chance).to(device)
        rows = encoded.rows[chosen]
        if encoding:
            said = _encoded_anew(pipe, [encoded.captions[row] for row in rows.tolist()])
        else:
            said = encoded.said.take(rows).to(device)
        if projection is not None:
            said = Said({**said.parts, "embeds": projection(said.parts["embeds"])})
        loss = denoiser.errors(clean, noise, times, said).mean()
        return Batch(loss, tuple(encoded.ids[row] for row in chosen.tolist()))

    return batch


def _encoded_anew(pipe: "DiffusionPipeline", captions: list[str]) -> Said:
    """Captions as embeddings through which gradients go."""
    said = encode_captions(pipe, captions, gradients=True)
    if not said.parts["embeds"].requires_grad:
        raise OptionError(
            f"{type(pipe).__name__} lets no gradient through its text encoder: train CLP or WiCLP for this pipeline"
        )
    return said
