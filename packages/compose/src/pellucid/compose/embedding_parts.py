"""Where each text encoder's embeddings lie in what a denoiser's cross-attention reads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import OptionError
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class EmbeddingPart:
    """One encoder's share of the text embeddings `(rows, tokens, channels)`.

    Attributes:
        encoder: the pipeline's name of it, such as "text_encoder_2".
        channels: `(start, stop)` of its channels.
        tokens: `(start, stop)` of its tokens; a stop of None means up to the last.
    """

    encoder: str
    channels: tuple[int, int]
    tokens: tuple[int, int | None] = (0, None)

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.channels[1] - self.channels[0]

    def of(self, embeddings: Tensor) -> Tensor:
        """A view of this part of `embeddings` (rows, tokens, channels)."""
        return embeddings[:, slice(*self.tokens), slice(*self.channels)]


def embedding_parts(pipe: "DiffusionPipeline") -> tuple[EmbeddingPart, ...]:
    """The parts of what a pipeline's denoiser reads, one a text encoder.

    SD 1.x, 2.x, IF and PixArt have one. SDXL lays the channels of its two encoders side by side. SD3 does so with its
    two CLIPs, fills up with zeros, and puts the tokens of T5 behind theirs. Pooled text is no part of it.

    Raises:
        OptionError: the pipeline's denoiser is of another family, or an encoder that tells the sizes is not loaded.
    """
    parts: Any = pipe
    network: Any = getattr(parts, "unet", None) or getattr(parts, "transformer", None)
    kind = type(network).__name__
    if kind == "SD3Transformer2DModel":
        first, second = _width(parts, "text_encoder"), _width(parts, "text_encoder_2")
        clip = parts.tokenizer_max_length
        return (
            EmbeddingPart("text_encoder", (0, first), (0, clip)),
            EmbeddingPart("text_encoder_2", (first, first + second), (0, clip)),
            EmbeddingPart("text_encoder_3", (0, network.config.joint_attention_dim), (clip, None)),
        )
    if kind == "PixArtTransformer2DModel":
        return (EmbeddingPart("text_encoder", (0, network.config.caption_channels)),)
    if kind != "UNet2DConditionModel":
        raise OptionError(
            f"{type(pipe).__name__} has the denoiser {kind}: a projection fits SD 1.x, 2.x, SDXL, SD3, PixArt and IF"
        )
    width = network.config.encoder_hid_dim or network.config.cross_attention_dim
    if hasattr(parts, "text_encoder_2") and getattr(parts, "text_encoder", None) is not None:
        first = _width(parts, "text_encoder")
        return (EmbeddingPart("text_encoder", (0, first)), EmbeddingPart("text_encoder_2", (first, width)))
    encoder = "text_encoder_2" if hasattr(parts, "text_encoder_2") else "text_encoder"
    return (EmbeddingPart(encoder, (0, width)),)


def _width(pipe: Any, name: str) -> int:
    encoder = getattr(pipe, name, None)
    if encoder is None:
        raise OptionError(f"the {name} of {type(pipe).__name__} is not loaded: load the pipeline with it")
    return int(encoder.config.hidden_size)
