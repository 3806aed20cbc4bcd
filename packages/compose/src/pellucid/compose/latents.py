"""Captioned pictures as latents and text embeddings, encoded once and kept in a folder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.errors import DataError, ModelError
from pellucid.core.outfolder import write_file
from pellucid.core.pictures import open_picture
from pellucid.core.progress import progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .captioned import CaptionedImage
from .denoising import Said, encode_captions, picture_latents

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ENCODED = "encoded.safetensors"
_VERSION = "1"
_SAMPLE = 64  # entries of each weight that enter a model's fingerprint


@dataclass(frozen=True, eq=False)
class Encoded:
    """Pictures and captions as a denoiser is trained on them.

    Attributes:
        latents: (n, channels, height, width) float32 on the CPU.
        said: the embeddings of the different captions, one row each, on the CPU.
        rows: (n,) each picture's row in `said`.
        captions: the different captions, in the order of `said`.
        ids: of the pictures.
        digest: of the pictures, the captions and the model that encoded them.
    """

    latents: Tensor
    said: Said
    rows: Tensor
    captions: tuple[str, ...]
    ids: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.latents)

    def of_caption(self, caption: str) -> Tensor:
        """Indices of the pictures with a caption.

        Raises:
            DataError: no picture has it.
        """
        if caption not in self.captions:
            raise DataError(f"no picture is captioned {caption!r}: give a caption that is in the data")
        return torch.nonzero(self.rows == self.captions.index(caption))[:, 0]

    def take(self, rows: Sequence[int] | Tensor) -> "Encoded":
        """The pictures at these indices, with all captions; the digest becomes that of the choice."""
        chosen = torch.as_tensor(rows, dtype=torch.long)
        named = hashlib.sha256(f"{self.digest}{chosen.tolist()}".encode()).hexdigest()
        ids = tuple(self.ids[row] for row in chosen.tolist())
        return Encoded(self.latents[chosen], self.said, self.rows[chosen], self.captions, ids, named)


def encode_dataset(
    pipe: "DiffusionPipeline", captioned: Sequence[CaptionedImage], out: str | Path, *, batch: int = 16
) -> Encoded:
    """Encode captioned pictures by a pipeline's autoencoder and text encoders, or read what an earlier call left.

    A caption that several pictures share is encoded once. Latents are the encoder's mean, scaled.

    Args:
        pipe: the pipeline that will be trained with.
        captioned: pictures with captions; all latents and embeddings must fit into memory.
        out: folder of `encoded.safetensors`; what lies there is used if it is of the same pictures, captions and
            model, and replaced otherwise.
        batch: pictures encoded at once.

    Raises:
        DataError: no pictures, a picture that cannot be read, or a folder that cannot be written.
        ModelError: the pipeline's family is not known, or its encoder gives values that are not finite.
    """
    if not captioned:
        raise DataError("there are no captioned pictures to encode: give at least one")
    path = Path(out) / ENCODED
    named = dataset_digest(pipe, captioned)
    if path.is_file() and (found := _read(path)) is not None and found.digest == named:
        return found
    captions = tuple(dict.fromkeys(item.caption for item in captioned))
    latents = []
    with progress("latents", len(captioned)) as advance:
        for start in range(0, len(captioned), batch):
            part = captioned[start : start + batch]
            latents.append(picture_latents(pipe, [open_picture(item.image) for item in part], batch))
            advance(len(part))
    places = {caption: row for row, caption in enumerate(captions)}
    rows = torch.tensor([places[item.caption] for item in captioned])
    ids = tuple(str(item.id) for item in captioned)
    encoded = Encoded(torch.cat(latents), encode_captions(pipe, captions).to("cpu"), rows, captions, ids, named)
    _write(path, encoded)
    return encoded


def load_encoded(out: str | Path) -> Encoded:
    """Read what `encode_dataset` wrote.

    Raises:
        DataError: there is nothing, or it is damaged or of another version.
    """
    path = Path(out) / ENCODED
    if not path.is_file():
        raise DataError(f"there is no {ENCODED} in {out}: encode the pictures with encode_dataset first")
    found = _read(path)
    if found is None:
        raise DataError(f"{path} is damaged or of another version: remove it and encode again")
    return found


def dataset_digest(pipe: "DiffusionPipeline", captioned: Sequence[CaptionedImage]) -> str:
    """SHA-256 over the pictures' files, the captions and ids in order, and what tells the encoders from others.

    Of the encoders these are their configs and, of each weight, its name, shape and some entries evenly apart: cheap,
    and no training leaves them as they were.
    """
    total = hashlib.sha256(_VERSION.encode())
    for name in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        if (part := getattr(pipe, name, None)) is not None:
            total.update(f"\0{name}\0".encode())
            _fingerprint(total, part)
    network: Any = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    total.update(f"\0size {network.config.get('sample_size')}\0{pictures_digest(captioned)}".encode())
    return total.hexdigest()


def pictures_digest(captioned: Sequence[CaptionedImage]) -> str:
    """SHA-256 over the pictures' files, wherever they lie, the captions and ids in order.

    Raises:
        DataError: a picture cannot be read.
    """
    total = hashlib.sha256()
    for item in captioned:
        total.update(json.dumps([str(item.id), item.caption]).encode())
        try:
            total.update(hashlib.sha256(Path(item.image).read_bytes()).digest())
        except OSError as error:
            raise DataError(f"the picture {item.image} cannot be read ({error.strerror})") from error
    return total.hexdigest()


def _fingerprint(total: Any, part: nn.Module) -> None:
    for name, weight in sorted(part.state_dict().items()):
        if weight.is_meta:
            raise ModelError(f"the weight {name} is offloaded: encode before offloading it")
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // _SAMPLE)].double().cpu()
        total.update(f"{name}{tuple(weight.shape)}".encode() + some.numpy().tobytes())


def _write(path: Path, encoded: Encoded) -> None:
    tensors = {f"said.{name}": part.contiguous() for name, part in encoded.said.parts.items()}
    tensors |= {"latents": encoded.latents.contiguous(), "rows": encoded.rows}
    about = {"version": _VERSION, "digest": encoded.digest, "captions": encoded.captions, "ids": encoded.ids}
    write_file(path, to_bytes(tensors, {"format": "pt", "pellucid_encoded": json.dumps(about)}))


def _read(path: Path) -> Encoded | None:
    """What lies in a file, or None where that is damaged or of another version."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["pellucid_encoded"])
            if about["version"] != _VERSION:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        said = Said({name.removeprefix("said."): part for name, part in tensors.items() if name.startswith("said.")})
        captions, ids = tuple(about["captions"]), tuple(about["ids"])
        return Encoded(tensors["latents"], said, tensors["rows"], captions, ids, about["digest"])
    except (SafetensorError, OSError, ValueError, LookupError, TypeError):
        return None
