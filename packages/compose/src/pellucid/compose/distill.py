"""SDS-CLIP: fine-tune a CLIP so that a text-to-image model understands what it sees (algorithm 6, eq. 9.4 and 9.5)."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.clips import Clip
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import write_file
from pellucid.core.pictures import open_picture
from pellucid.core.sweeps import digest
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .captioned import CaptionedImage
from .denoising import Denoiser, Said, denoiser_of, encode_captions, picture_latents
from .distill_config import DistillConfig
from .latents import Encoded, dataset_digest, encode_dataset
from .sds import LatentMap, contrastive_loss, feature_loss, feature_shape, sds_loss, unet_features
from .trained import frozen
from .training import Batch, Fitted, Task, chance_of, fit

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

CLIP, MAP = "clip", "latent_map.safetensors"
_TEXTS = 1024  # captions that are made into tokens at once
_MARKS = 64  # entries of each of the teacher's weights that tell it from others
_READERS = 4  # threads that open the next batch's pictures


@dataclass(frozen=True, eq=False)
class Distilled:
    """What a distillation leaves.

    Attributes:
        clip: the CLIP that was given, trained.
        latent_map: h_w; None without a teacher.
        trained: names of the CLIP's parameters that were trained.
        losses: of each step.
        seconds: that all steps took.
    """

    clip: Clip
    latent_map: LatentMap | None
    trained: tuple[str, ...]
    losses: tuple[float, ...]
    seconds: float


def distill(
    clip: Clip,
    captioned: Sequence[CaptionedImage],
    out: str | Path | None = None,
    config: DistillConfig | None = None,
    pipe: "DiffusionPipeline | None" = None,
    *,
    every: int = 500,
    resume: bool = True,
) -> Distilled:
    """Fine-tune a CLIP with the contrastive loss plus lambda times what a frozen text-to-image model makes of it.

    The loss is L_CLIP + lambda L_SDS (eq. 9.4), L_CLIP alone, or eq. 11.19, over the normalisations' parameters of both
    encoders and the linear map h_w (eq. 9.5). The model stays in eval mode, so that BatchNorms keep their statistics.
    On one CPU thread a run that was killed ends with the same bits; to go on, give the CLIP as it was at the start.

    Args:
        clip: changed in place, on its device.
        captioned: pairs to train on, at least a batch of them.
        out: folder for checkpoints, what the teacher reads, `latent_map.safetensors`, and the result as a plain CLIP
            in `clip`; None keeps nothing.
        config: what and how; the thesis's by default.
        pipe: the teacher; not needed, and not read, without a second term. It is left as it was. Its denoiser's
            `enable_gradient_checkpointing()` saves memory.
        every: steps between two checkpoints.
        resume: go on from the checkpoint in `out`; False starts anew.

    Raises:
        OptionError: the teacher is missing, or an option cannot work.
        DataError: too few pairs, a picture that cannot be read, the loss is no number any more (step and pictures are
            named), or the checkpoint is of another run.
    """
    config = config or DistillConfig()
    if len(captioned) < config.batch:
        raise DataError(f"there are {len(captioned)} captioned pictures: a batch of {config.batch} needs as many")
    weights = clip.norms() if config.trains == "norms" else clip.all_weights()
    folder = None if out is None else Path(out)
    keeping = {"out": folder, "every": every, "resume": resume}
    if not config.teaches:
        fitted = _fit(clip, captioned, config, weights, None, keeping)
        return _kept(Distilled(clip, None, tuple(weights), fitted.losses, fitted.seconds), folder)
    if pipe is None:
        raise OptionError(f"the method {config.method} needs a text-to-image model: give one, or a weight of 0")
    with frozen(pipe):
        teacher = _teacher(clip, pipe, captioned, config, folder)
        fitted = _fit(clip, captioned, config, weights, teacher, keeping)
    teacher.latent_map.requires_grad_(False)
    return _kept(Distilled(clip, teacher.latent_map, tuple(weights), fitted.losses, fitted.seconds), folder)


def batch_rows(count: int, batch: int, step: int, seed: int) -> list[int]:
    """Which pairs a step takes: every epoch goes once over all pairs in a new order, without its last, smaller rest."""
    epoch, place = divmod(step, count // batch)
    order = torch.randperm(count, generator=chance_of(seed, epoch))
    return order[place * batch : (place + 1) * batch].tolist()


@dataclass(frozen=True, eq=False)
class _Teacher:
    """What the second term of the loss is computed with."""

    denoiser: Denoiser
    latent_map: LatentMap
    captioned: Sequence[CaptionedImage]
    encoded: Encoded | None
    config: DistillConfig
    digest: str

    def loss(self, embeddings: Tensor, rows: list[int], step: int) -> Tensor:
        """The second term, of a CLIP's picture embeddings (n, width)."""
        chance = chance_of(self.config.seed + 1, step)
        steps = torch.randint(self.denoiser.schedule.steps, (len(rows),), generator=chance)
        noise = torch.randn(len(rows), *self.denoiser.shape, generator=chance).to(embeddings.device)
        mapped, said = self.latent_map(embeddings.float()), self._said(rows)
        if self.config.method == "sds":
            return sds_loss(self.denoiser, mapped, noise, steps, said)
        latents = self._latents(rows).to(noise)
        return feature_loss(mapped, unet_features(self.denoiser, latents, noise, steps, said).to(mapped))

    def _said(self, rows: list[int]) -> Said:
        if self.encoded is not None:
            return self.encoded.said.take(self.encoded.rows[rows])
        return encode_captions(self.denoiser.pipe, [self.captioned[row].caption for row in rows])

    def _latents(self, rows: list[int]) -> Tensor:
        if self.encoded is not None:
            return self.encoded.latents[rows]
        return picture_latents(self.denoiser.pipe, [open_picture(self.captioned[row].image) for row in rows])


def _teacher(
    clip: Clip,
    pipe: "DiffusionPipeline",
    captioned: Sequence[CaptionedImage],
    config: DistillConfig,
    folder: Path | None,
) -> _Teacher:
    denoiser = denoiser_of(pipe)
    encoded = None
    if config.encode_once:
        encoded = encode_dataset(pipe, captioned, folder) if folder is not None else _encoded(pipe, captioned)
    named = digest([dataset_digest(pipe, captioned) if encoded is None else encoded.digest, _marks(denoiser.network)])
    shape = denoiser.shape
    if config.method == "features":
        shape = feature_shape(denoiser, encode_captions(pipe, [captioned[0].caption]))
    latent_map = LatentMap(clip.width, shape, config.seed).to(clip.device)
    return _Teacher(denoiser, latent_map, captioned, encoded, config, named)


def _marks(network: nn.Module) -> dict[str, Tensor]:
    """Some entries of each of a network's weights, evenly apart, which tell it from others."""
    flat = {name: weight.detach().flatten() for name, weight in network.state_dict().items()}
    return {name: part[:: max(1, len(part) // _MARKS)].float().cpu() for name, part in flat.items()}


def _encoded(pipe: "DiffusionPipeline", captioned: Sequence[CaptionedImage]) -> Encoded:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place:
        return encode_dataset(pipe, captioned, place)


def _fit(
    clip: Clip,
    captioned: Sequence[CaptionedImage],
    config: DistillConfig,
    weights: dict[str, nn.Parameter],
    teacher: _Teacher | None,
    keeping: dict[str, Any],
) -> Fitted:
    trained: dict[str, Tensor] = {f"clip.{name}": weight for name, weight in weights.items()}
    identity = {
        **asdict(config),
        "clip": clip.revision,
        "pairs": digest([[item.id, item.caption] for item in captioned]),
    }
    if teacher is not None:
        trained |= {f"map.{name}": weight for name, weight in teacher.latent_map.named_parameters()}
        identity["teacher"] = teacher.digest
    captions = [item.caption for item in captioned]
    tokens = torch.cat([clip.tokenize(captions[at : at + _TEXTS]) for at in range(0, len(captions), _TEXTS)])
    for weight in weights.values():
        weight.requires_grad_(True)
    with _Reader(clip, captioned, config) as reader:

        def batch(step: int) -> Batch:
            rows, pixels = reader.batch(step)
            seen, said = clip.image_features(pixels), clip.text_features(tokens[rows])
            loss = contrastive_loss(seen, said, clip.logit_scale)
            if teacher is not None:
                loss = loss + config.weight * teacher.loss(seen, rows, step)
            return Batch(loss, tuple(captioned[row].id for row in rows))

        task = Task(
            *(config.method, trained, batch, config.rate, config.steps),
            identity=identity,
            precision=config.precision,
            **keeping,
        )
        try:
            return fit(task)
        finally:
            for weight in weights.values():
                weight.requires_grad_(False)
                weight.grad = None


class _Reader:
    """Opens and prepares the next step's pictures while the present one is trained on."""

    def __init__(self, clip: Clip, captioned: Sequence[CaptionedImage], config: DistillConfig) -> None:
        self._clip, self._captioned, self._config = clip, captioned, config
        self._pool = ThreadPoolExecutor(_READERS)
        self._coming: tuple[int, list[int], list[Future[Tensor]]] | None = None

    def batch(self, step: int) -> tuple[list[int], Tensor]:
        """A step's pairs, and their prepared pictures (n, 3, height, width)."""
        if self._coming is None or self._coming[0] != step:
            self._coming = self._begun(step)
        _, rows, parts = self._coming
        self._coming = self._begun(step + 1) if step + 1 < self._config.steps else None
        return rows, torch.cat([part.result() for part in parts])

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begun(self, step: int) -> tuple[int, list[int], list[Future[Tensor]]]:
        rows = batch_rows(len(self._captioned), self._config.batch, step, self._config.seed)
        return step, rows, [self._pool.submit(self._prepared, self._captioned[row].image) for row in rows]

    def _prepared(self, image: str) -> Tensor:
        return self._clip.prepare([open_picture(image)])


def _kept(distilled: Distilled, folder: Path | None) -> Distilled:
    if folder is not None:
        if distilled.latent_map is not None:
            weights = {"weight": distilled.latent_map.weight.detach().cpu().contiguous()}
            write_file(folder / MAP, to_bytes(weights, {"format": "pt"}))
        distilled.clip.save(folder / CLIP)
    return distilled
