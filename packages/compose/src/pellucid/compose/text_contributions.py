"""Which tokens of a prompt a text encoder's tokens attend to, and how often to the wrong ones (section 9.2.3)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.attention import Attend, around_attention
from pellucid.core.contributions import attention_contributions
from pellucid.core.errors import DataError, ModelError
from pellucid.core.progress import progress
from pellucid.core.statistics import Estimate, bootstrap_mean
from pellucid.core.text_anatomy import TextAnatomy, text_anatomies
from pellucid.core.tracing import find_module
from torch import Tensor, nn

from .prompts_data import Span, TwoObjects

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]
BATCH = 32


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A text encoder with what its attention is read by.

    Attributes:
        name: the pipeline's name of it, such as "text_encoder_2".
        anatomy: tells its layers.
        tokenizer: a fast one, which tells where tokens stand in a text.
        lowercase: whether the pipeline reads prompts in small letters (IF and PixArt).
    """

    name: str
    anatomy: TextAnatomy
    tokenizer: "PreTrainedTokenizerBase"
    lowercase: bool = False

    @property
    def model(self) -> nn.Module:
        """The encoder."""
        return self.anatomy.encoder

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.anatomy.layers

    def attention_block(self, layer: int) -> str:
        """Name of a layer's self-attention."""
        return self.anatomy.attention(layer).module

    def output_projection(self, layer: int) -> str:
        """Name of the linear map W_o from the heads to the residual stream."""
        return self.anatomy.out_projection(layer)

    def tokens(self, prompts: Sequence[str]) -> Any:
        """Prompts as the encoder reads them, padded to the longest, with `offset_mapping` and `special_tokens_mask`."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(f"the tokenizer of the {self.name} tells no offsets: load it in its fast kind")
        texts = [prompt.lower() for prompt in prompts] if self.lowercase else list(prompts)
        return self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=True,
            return_tensors="pt",
        )


@dataclass(frozen=True)
class ContributionMap:
    """Contributions between all tokens of one prompt (fig. 9.4).

    Attributes:
        prompt: the text.
        tokens: its tokens, as the tokenizer spells them, without padding.
        values: (layers, tokens i, tokens j): what token j contributes to token i.
    """

    prompt: str
    tokens: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class Unintended:
    """Unintended attention of one encoder over prompts "a_1 o_1 and a_2 o_2" (fig. 9.5).

    Attributes:
        encoder: its name.
        causal: whether tokens see earlier ones only (CLIP), so that o_1 cannot attend to a_2.
        prompts: the texts.
        contributions: (prompts, layers, objects o, attributes a): what a contributes to o.
    """

    encoder: str
    causal: bool
    prompts: tuple[str, ...]
    contributions: Floats

    @property
    def second(self) -> NDArray[np.bool_]:
        """(prompts, layers): whether o_2 attends more to a_1 than to a_2."""
        return self.contributions[:, :, 1, 0] > self.contributions[:, :, 1, 1]

    @property
    def first(self) -> NDArray[np.bool_]:
        """(prompts, layers): whether o_1 attends more to a_2 than to a_1; never in a causal encoder."""
        return self.contributions[:, :, 0, 1] > self.contributions[:, :, 0, 0]

    @property
    def layers(self) -> NDArray[np.int64]:
        """(prompts,): in how many layers attention is unintended, by the thesis's rule.

        That is where o_2 attends more to a_1 than to a_2, and in an encoder that sees all tokens also where o_1
        attends more to a_2 than to a_1.
        """
        return (self.second | self.first).sum(1)

    def share(self, both: bool = True, seed: int = 0, draws: int = 2000) -> Estimate:
        """The share of layers with unintended attention, its mean over prompts with a bootstrap interval.

        Args:
            both: by the thesis's rule; otherwise by o_2 alone, which asks encoders of both kinds the same.
            seed: of the resamples.
            draws: how many resamples.
        """
        wrong = self.second | self.first if both else self.second
        return bootstrap_mean(wrong.mean(1), seed, draws)


def pipeline_encoders(pipe: "DiffusionPipeline") -> tuple[TextEncoder, ...]:
    """The text encoders of a pipeline, in its order.

    Raises:
        SiteError: it holds none, or one of a class that is not known.
    """
    lowercase = hasattr(pipe, "_text_preprocessing")
    return tuple(
        TextEncoder(name, anatomy, getattr(pipe, name.replace("text_encoder", "tokenizer")), lowercase)
        for anatomy in text_anatomies(pipe)
        for name in [anatomy.component]
    )


def single_encoder(name: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> TextEncoder:
    """A text encoder that is in no pipeline: a `CLIPTextModel` or a `T5EncoderModel` with its tokenizer.

    Raises:
        SiteError: the model is of another class.
    """
    pipe: Any = SimpleNamespace(text_encoder=model)
    return TextEncoder(name, text_anatomies(pipe)[0], tokenizer)


def contribution_map(encoder: TextEncoder, prompt: str) -> ContributionMap:
    """What every token of a prompt contributes to every other, in each layer.

    cont_ij = | sum over heads h of attn_ij^h v_j^h W_o^h |_2 (section 9.2.3).

    Raises:
        OptionError: the encoder does not use transformers' attention interface.
    """
    tokens = encoder.tokens([prompt])
    count = tokens["input_ids"].shape[1]
    with torch.no_grad(), attending(encoder, torch.arange(count)[None], None) as found:
        _run(encoder, tokens)
    names = encoder.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist())
    values = torch.stack([found[layer][0] for layer in range(encoder.layers)])
    return ContributionMap(prompt, tuple(map(str, names)), values.double().numpy())


def unintended_attention(
    encoder: TextEncoder,
    prompts: Sequence[TwoObjects],
    *,
    batch: int = BATCH,
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Unintended:
    """Measure what both attributes contribute to both objects, in each layer, for each prompt.

    An object is read at its last token, which is the first to have seen all of it. Contributions are vectors, and an
    attribute of several tokens contributes their sum, of which the length is taken.

    Args:
        encoder: from `pipeline_encoders` or `single_encoder`.
        prompts: from `parse_two_objects` or `templated`.
        batch: prompts in one forward pass.
        within: opened around each pass, such as `lambda: reweighted([encoder], prompts)`, whose effect is then seen.

    Raises:
        DataError: there are no prompts, or a word was cut off because its prompt is too long.
        OptionError: the encoder does not use transformers' attention interface.
    """
    if not prompts:
        raise DataError('there are no prompts of the form "a_1 o_1 and a_2 o_2": give some')
    found = []
    with progress("prompts", len(prompts)) as advance:
        for start in range(0, len(prompts), batch):
            some = prompts[start : start + batch]
            found.append(_word_contributions(encoder, some, within))
            advance(len(some))
    texts = tuple(prompt.prompt for prompt in prompts)
    return Unintended(encoder.name, encoder.anatomy.causal, texts, np.concatenate(found))


def unintended_counts(found: Sequence[Unintended]) -> dict[str, NDArray[np.int64]]:
    """For each encoder how many prompts have unintended attention in 0, 1, ... of its layers: fig. 9.5's bars."""
    return {
        one.encoder: np.bincount(one.layers, minlength=one.contributions.shape[1] + 1).astype(np.int64) for one in found
    }


def word_tokens(offsets: Tensor, special: Tensor, span: Span, prompt: str) -> list[int]:
    """Places of the tokens that spell a word.

    Args:
        offsets: (tokens, 2): each token's characters.
        special: (tokens,): 1 where a token is none of the text's.
        span: the word's characters.
        prompt: the text, for the error.

    Raises:
        DataError: no token spells it, since the prompt was cut before.
    """
    first, last = span
    places = [
        place
        for place, (start, stop) in enumerate(offsets.tolist())
        if not special[place] and start < last and stop > first
    ]
    if not places:
        raise DataError(f"the word {prompt[first:last]!r} of {prompt!r} is cut off by the tokenizer: make it shorter")
    return places


@contextmanager
def attending(encoder: TextEncoder, queries: Tensor, reduce: Any) -> Iterator[dict[int, Tensor]]:
    """Record contributions of the encoder's next pass, of T5's with its relative positions; see core's.

    Args:
        encoder: which.
        queries: places i for each row, (batch, queries).
        reduce: what to keep of one row's vectors; their lengths where it is None.
    """
    options = {} if reduce is None else {"reduce": reduce}
    # T5 hands its position bias over beside the mask. The bias is folded into the mask first, which is the same sum
    # of logits, so that what is recorded and what is computed read one thing.
    with attention_contributions(encoder, queries, **options) as found:
        if encoder.anatomy.causal:
            yield found
        else:
            with around_attention(attention_part(encoder), _folded):
                yield found


def attention_part(encoder: TextEncoder) -> Any:
    """The part of the encoder whose attention is meant, with a config of its own."""
    parts = encoder.attention_block(0).split(".")
    for stop in range(len(parts), 0, -1):
        part = find_module(encoder.model, ".".join(parts[:stop]))
        if hasattr(part, "set_attn_implementation"):
            return part
    return encoder.model


def _folded(
    base: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    bias = options.pop("position_bias", None)
    if bias is not None:
        mask = joined_mask(mask, bias)
    return base(module, query, key, value, mask, **options)


def joined_mask(mask: Tensor | None, added: Tensor) -> Tensor:
    """A mask, boolean (True: seen) or added to the logits, with something more that is added to them."""
    if mask is None:
        return added
    if mask.dtype == torch.bool:
        return torch.where(mask, added, torch.finfo(added.dtype).min)
    return mask + added


def _word_contributions(
    encoder: TextEncoder, prompts: Sequence[TwoObjects], within: Callable[[], AbstractContextManager[None]]
) -> Floats:
    """(prompts, layers, objects, attributes) float64."""
    tokens = encoder.tokens([prompt.prompt for prompt in prompts])
    last, spelled = [], []
    for row, prompt in enumerate(prompts):
        where = tokens["offset_mapping"][row], tokens["special_tokens_mask"][row]
        last.append([word_tokens(*where, span, prompt.prompt)[-1] for span in prompt.objects])
        spelled.append([word_tokens(*where, span, prompt.prompt) for span in prompt.attributes])

    def lengths(vectors: Tensor, row: int) -> Tensor:
        return torch.stack([vectors[:, places].sum(1).norm(dim=-1) for places in spelled[row]], dim=1)

    with torch.no_grad(), attending(encoder, torch.tensor(last), lengths) as found, within():
        _run(encoder, tokens)
    stacked = torch.stack([found[layer] for layer in range(encoder.layers)], dim=1).double()
    return stacked.numpy()


def _run(encoder: TextEncoder, tokens: Any) -> None:
    device = next(encoder.model.parameters()).device
    ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
    # CLIP's are causal: what pads behind a prompt needs no mask, and pipelines give none.
    encoder.model(input_ids=ids, **({} if encoder.anatomy.causal else {"attention_mask": mask}))
