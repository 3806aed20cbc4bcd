"""Zero-shot reweighting of a text encoder's attention: objects look more at their own attributes (section 9.2.3).

The thesis names the method and finds that it helps, though less than a projection; it gives no formula. Here a number
is added to the attention's logits of the last layers, before the softmax: from an object's tokens to its own
attribute's tokens, and another is taken away towards the other object's attribute. Nothing is trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.attention import Attend, around_attention
from pellucid.core.errors import OptionError, SiteError
from pellucid.core.tracing import find_module
from torch import Tensor, nn

from .generation import encode_prompts
from .prompts_data import TwoObjects
from .text_contributions import TextEncoder, attention_part, joined_mask, pipeline_encoders, word_tokens

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Reweighting:
    """How attention is reweighted.

    Attributes:
        raised: added to the logits from an object to its own attribute; 1 makes it e times as likely as before.
        lowered: taken from the logits from an object to the other object's attribute.
        layers: how many of the last layers.

    Raises:
        OptionError: no layers.
    """

    raised: float = 1.0
    lowered: float = 1.0
    layers: int = 3

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise OptionError(f"layers is {self.layers}: reweight at least the last one")


@dataclass
class _Run:
    """What the encoder is reading: what is added to each row's logits, (rows, tokens, tokens), or None."""

    added: Tensor | None = None
    seen: set[str] = field(default_factory=set)


@contextmanager
def reweighted(
    encoders: Sequence[TextEncoder], prompts: Sequence[TwoObjects], how: Reweighting | None = None
) -> Iterator[None]:
    """Reweight attention while the block runs, wherever an encoder reads one of these prompts.

    Other texts, such as the empty one of classifier-free guidance, are encoded as ever.

    Args:
        encoders: from `pipeline_encoders`; all of them are treated alike.
        prompts: from `parse_two_objects`.
        how: how much, and in which layers.

    Raises:
        OptionError: an encoder has fewer layers, or does not use transformers' attention interface.
        DataError: a word is cut off because its prompt is too long.
        SiteError: at the end of the block, where no encoder has read any of the prompts.
    """
    how = how or Reweighting()
    runs = []
    with ExitStack() as stack:
        for encoder in encoders:
            if how.layers > encoder.layers:
                raise OptionError(f"the {encoder.name} has {encoder.layers} layers, and {how.layers} are to change")
            run = _Run()
            runs.append(run)
            _enter(stack, encoder, _tables(encoder, prompts, how), how.layers, run)
        yield
    if prompts and not any(run.seen for run in runs):
        raise SiteError(f"no encoder has read {prompts[0].prompt!r} or another of the prompts in this block")


def reweighted_prompts(
    pipe: "DiffusionPipeline", prompts: Sequence[TwoObjects], how: Reweighting | None = None
) -> dict[str, Tensor]:
    """Encode prompts with reweighted attention: what `generate` takes, as `encode_prompts` returns it.

    Raises:
        OptionError: see `reweighted`.
        DataError: see `reweighted`.
    """
    with reweighted(pipeline_encoders(pipe), prompts, how):
        return encode_prompts(pipe, [prompt.prompt for prompt in prompts])


def _enter(
    stack: ExitStack, encoder: TextEncoder, tables: Mapping[tuple[int, ...], Tensor], layers: int, run: _Run
) -> None:
    last = range(encoder.layers - layers, encoder.layers)
    blocks = {id(find_module(encoder.model, encoder.attention_block(layer))) for layer in last}

    def note(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids = options["input_ids"] if "input_ids" in options else args[0]
        run.added = _added(ids, tables, run)

    def attend(
        base: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        if run.added is not None and id(module) in blocks:
            added = run.added[:, None].to(query)
            if mask is None and encoder.anatomy.causal:
                mask = torch.ones(added.shape[-2:], dtype=torch.bool, device=query.device).tril()
            mask = joined_mask(mask, added)
        return base(module, query, key, value, mask, **options)

    stack.callback(encoder.model.register_forward_pre_hook(note, with_kwargs=True).remove)
    stack.enter_context(around_attention(attention_part(encoder), attend))


def _tables(encoder: TextEncoder, prompts: Sequence[TwoObjects], how: Reweighting) -> dict[tuple[int, ...], Tensor]:
    """What is added to the logits for each prompt, (tokens, tokens), by its token ids without padding."""
    found = {}
    for prompt in prompts:
        tokens = encoder.tokens([prompt.prompt])
        where = tokens["offset_mapping"][0], tokens["special_tokens_mask"][0]
        attributes = [word_tokens(*where, span, prompt.prompt) for span in prompt.attributes]
        objects = [word_tokens(*where, span, prompt.prompt) for span in prompt.objects]
        ids = tuple(tokens["input_ids"][0].tolist())
        added = torch.zeros(len(ids), len(ids))
        for one, places in enumerate(objects):
            for other, spelled in enumerate(attributes):
                for place in places:
                    added[place, spelled] = how.raised if one == other else -how.lowered
        found[ids] = added
    return found


def _added(ids: Tensor, tables: Mapping[tuple[int, ...], Tensor], run: _Run) -> Tensor | None:
    """(rows, tokens, tokens) with each known row's table; None where no row is known or all tables are zero."""
    added = torch.zeros(len(ids), ids.shape[1], ids.shape[1])
    for row, read in enumerate(ids.tolist()):
        for known, table in tables.items():
            if tuple(read[: len(known)]) == known:
                added[row, : len(known), : len(known)] = table
                run.seen.add(str(known))
    return added if added.any() else None
