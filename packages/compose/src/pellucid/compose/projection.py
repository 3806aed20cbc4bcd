"""CLP and WiCLP: linear maps on text embeddings, from a window of tokens to what is added to its middle one."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import write_file
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.functional import pad

from .embedding_parts import EmbeddingPart, embedding_parts

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

WEIGHTS = "projection.safetensors"
CONFIG = "config.json"
VERSION = 1


class WindowProjection(nn.Module):
    """One encoder's map: `W^T CONCATENATION(c_j for j from i - s to i + s) + b` for each token i (thesis 9.2.4).

    Tokens beyond the ends count as zeros. `weight` is W, of shape ((2 s + 1) width, width), and `bias` is b; both start
    at zero.
    """

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.width, self.window = width, window
        self.weight = nn.Parameter(torch.zeros((2 * window + 1) * width, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, embeddings: Tensor) -> Tensor:
        """From embeddings (rows, tokens, width) to what is added to them, of the same shape."""
        tokens = embeddings.shape[1]
        padded = pad(embeddings, (0, 0, self.window, self.window))
        windows = torch.cat([padded[:, start : start + tokens] for start in range(2 * self.window + 1)], -1)
        return windows @ self.weight + self.bias


class TextProjection(nn.Module):
    """WiCLP, or CLP where the window is 0: embeddings plus a map of each token's window, one map a text encoder.

    The thesis writes the map without the embedding itself; as in its authors' program, what is learnt is added to the
    embedding, so that a projection at zero changes nothing.

    Args:
        parts: where the encoders' embeddings lie; `embedding_parts(pipe)`.
        window: s of section 9.2.4, tokens on either side; 2 is the authors' window of 5 tokens.

    Raises:
        OptionError: a negative window, no part, or two parts of one encoder.
    """

    def __init__(self, parts: Sequence[EmbeddingPart], window: int = 2) -> None:
        super().__init__()
        if window < 0:
            raise OptionError(f"window is {window}: give 0 (CLP) or more tokens on either side")
        if not parts or len({part.encoder for part in parts}) != len(parts):
            raise OptionError("a projection needs one part or more, each of another encoder: use embedding_parts(pipe)")
        self.parts, self.window = tuple(parts), window
        self.maps = nn.ModuleDict({part.encoder: WindowProjection(part.width, window) for part in parts})

    def forward(self, embeddings: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Project text embeddings; the sum is made in float32 and given back in their dtype.

        Args:
            embeddings: (rows, tokens, channels), as the denoiser reads them.
            tokens: which tokens to change (thesis 9.2.7), bool, (tokens,) or (rows, tokens); None: all. A chosen token
                sees its whole window as it was.

        Raises:
            OptionError: the embeddings, or the choice of tokens, do not have the shape that the parts tell.
        """
        self._check(embeddings, tokens)
        kept = embeddings.float()
        new = kept.clone()
        for part in self.parts:
            part.of(new).add_(self.maps[part.encoder](part.of(kept)))
        if tokens is not None:
            new = torch.where(tokens.to(new.device).expand(new.shape[:2])[..., None], new, kept)
        return new.to(embeddings.dtype)

    def _check(self, embeddings: Tensor, tokens: Tensor | None) -> None:
        channels = max(part.channels[1] for part in self.parts)
        least = max(part.tokens[0] for part in self.parts) + 1
        if embeddings.ndim != 3 or embeddings.shape[2] < channels or embeddings.shape[1] < least:
            raise OptionError(
                f"text embeddings have shape {tuple(embeddings.shape)}, and the projection was made for (rows, "
                f"at least {least} tokens, {channels} channels): use it with the pipeline that it was trained for"
            )
        if tokens is not None and tuple(tokens.shape) not in (embeddings.shape[1:2], embeddings.shape[:2]):
            raise OptionError(
                f"the choice of tokens has shape {tuple(tokens.shape)}, and the embeddings have "
                f"{tuple(embeddings.shape[:2])} rows and tokens: give one row, or as many as there are prompts"
            )

    def save(self, folder: str | Path) -> Path:
        """Write `projection.safetensors` and `config.json` into a folder, and return it.

        Raises:
            DataError: the folder cannot be written.
        """
        folder = Path(folder)
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.state_dict().items()}
        config = {"pellucid_projection": VERSION, "window": self.window, "parts": [asdict(part) for part in self.parts]}
        write_file(folder / WEIGHTS, to_bytes(weights, {"format": "pt"}))
        write_file(folder / CONFIG, json.dumps(config, indent=2).encode())
        return folder


def text_projection(pipe: "DiffusionPipeline", window: int = 2) -> TextProjection:
    """A projection at zero for a pipeline, on its device, in float32; `window=0` is CLP.

    Raises:
        OptionError: the pipeline's family has no place for one, or the window is negative.
    """
    return TextProjection(embedding_parts(pipe), window).to(pipe.device)


def load_projection(folder: str | Path) -> TextProjection:
    """Read what `TextProjection.save` wrote.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        weights = from_bytes((folder / WEIGHTS).read_bytes())
    except OSError as error:
        raise DataError(f"{folder} holds no projection ({error.strerror}): give the folder that was saved") from error
    except (ValueError, SafetensorError) as error:
        raise DataError(f"the projection in {folder} cannot be read ({error}): save it again") from error
    found = config.get("pellucid_projection") if isinstance(config, dict) else None
    if found != VERSION:
        raise DataError(
            f"{folder / CONFIG} says version {found!r} of a projection, and this release reads {VERSION}: train it "
            "again, or upgrade pellucid-compose"
        )
    try:
        parts = [_part(record) for record in config["parts"]]
        projection = TextProjection(parts, int(config["window"]))
        projection.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, OptionError) as error:
        line = str(error).splitlines()[0]
        raise DataError(f"the projection in {folder} is damaged ({line}): save it again") from error
    return projection


def _part(record: dict[str, Any]) -> EmbeddingPart:
    (start, stop), (first, last) = record["channels"], record["tokens"]
    return EmbeddingPart(record["encoder"], (start, stop), (first, last))
