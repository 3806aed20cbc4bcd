"""Ways to make a model keep to its context (thesis 8.3.3, 8.5 and 11.7.2), one function for all of them.

- `attributed`: the answer is attributed with one attention head, and asked for again with the found spans pointed out
  in the prompt (8.5);
- `upweighted`: the heads of a few layers look harder at the context (11.7.2);
- `zeroed`, `mean_ablated`: the memory circuit's MLPs no longer write to the logits, directly (11.7.2, 8.3.3);
- `context_aware`: context-aware decoding (Shi et al. 2023), a baseline; `plain`: nothing.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pellucid.core.errors import DataError, OptionError

from .ablation import Means, ablating
from .asking import check_context, check_fits, few_shot, sources, token_ids
from .attention_rows import Head
from .attribution import attribute_batch
from .components import Component
from .context_aware import complete_context_aware
from .prompts import EXAMPLES, Style, complete, first_line, render, render_located
from .spans import Cut, ScoredSpan, tokens_of
from .upweighting import BETA, context_mask, upweighting

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Method = Literal["plain", "attributed", "upweighted", "zeroed", "mean_ablated", "context_aware"]
METHODS: tuple[Method, ...] = get_args(Method)
Asked = tuple[str, str]


@dataclass(frozen=True)
class Steering:
    """What the methods need; each only its own.

    Attributes:
        head: (layer, head) that attributes, for `attributed`.
        layers: whose heads are up-weighted, such as `top_layers(context circuit)`.
        mlps: layers of the memory circuit's MLPs, for `zeroed` and `mean_ablated`.
        beta: see `upweighting`.
        alpha: see `context_aware.ContextAware`.
        spans: what `attributed` points out, see `spans.cut`.
        k: how many of them.
    """

    head: Head | None = None
    layers: tuple[int, ...] = ()
    mlps: tuple[int, ...] = ()
    beta: float = BETA
    alpha: float = 0.5
    spans: Cut = "sentence"
    k: int = 1

    def check(self, method: str) -> Method:
        """Return a method that was given as text, if what it needs is there.

        Raises:
            OptionError: there is no such method, or it lacks something.
        """
        if method not in METHODS:
            raise OptionError(f"no method {method!r}: choose from {', '.join(METHODS)}")
        needs: dict[str, tuple[str, object]] = {
            "attributed": ("head", self.head),
            "upweighted": ("layers", self.layers),
            "zeroed": ("mlps", self.mlps),
            "mean_ablated": ("mlps", self.mlps),
        }
        name, given = needs.get(method, ("", True))
        if not given:
            raise OptionError(f"the method {method!r} needs {name!r}: give it, as it was found for this model")
        return method

    @property
    def mlp_components(self) -> tuple[Component, ...]:
        """`mlps` as components."""
        return tuple(Component("mlp", layer) for layer in self.mlps)


def attributed_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    context: str,
    question: str,
    spans: Sequence[ScoredSpan],
    style: Style = "plain",
) -> str:
    """A prompt that points out some spans of the context, with worked examples that heed what is pointed out.

    Raises:
        OptionError: as `prompts.render`.
    """
    ask = "Context: {}\nMost relevant: {}\nQuestion: {}\nAnswer:"
    shown = [
        (ask.format(e.context, source, e.question), e.answer) for e, source in zip(EXAMPLES, sources(), strict=True)
    ]
    # In the text's order, as one would read them.
    pointed = " ".join(scored.span.of(context) for scored in sorted(spans, key=lambda scored: scored.span))
    return few_shot(tokenizer, shown, ask.format(context, pointed, question), style)


def steered_replies(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    asked: Sequence[Asked],
    method: Method,
    steering: Steering,
    *,
    length: int = 16,
    style: Style = "plain",
    means: Means | None = None,
) -> list[str]:
    """Answer questions over contexts, greedily, with one way of steering; one batch.

    `attributed` generates twice; `context_aware` makes two forward passes a token; the others cost next to nothing.

    Args:
        model: a decoder of a known family, in eval mode.
        tokenizer: its tokenizer, a fast one.
        asked: contexts with their questions.
        method: what is done.
        steering: what it is done with.
        length: most tokens of a reply.
        style: how prompts are rendered, see `prompts.render`.
        means: for `mean_ablated`, the MLPs' mean outputs, see `ablation.mean_writes`.

    Returns:
        The first line of each reply.

    Raises:
        DataError: nothing is asked, or a context is empty.
        OptionError: the method lacks something, a prompt is too long, or an option cannot work.
    """
    steering.check(method)
    if not asked:
        raise DataError("nothing is asked: give one context with its question, or more")
    for context, _ in asked:
        check_context(context)
    if method == "context_aware":
        replies = complete_context_aware(model, tokenizer, asked, length, alpha=steering.alpha, style=style)
        return [first_line(reply) for reply in replies]
    if method == "attributed":
        prompts = _pointed_out(model, tokenizer, asked, steering, length, style)
    else:
        prompts = [token_ids(tokenizer, render(tokenizer, *pair, style), style) for pair in asked]
    check_fits(model, max(map(len, prompts)) + length)
    if method in ("plain", "attributed"):
        replies = complete(model, tokenizer, prompts, length)
    else:
        with _steered(model, tokenizer, asked, method, steering, style, means):
            replies = complete(model, tokenizer, prompts, length)
    return [first_line(reply) for reply in replies]


def _pointed_out(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    asked: Sequence[Asked],
    steering: Steering,
    length: int,
    style: Style,
) -> list[list[int]]:
    assert steering.head is not None
    found = attribute_batch(
        model, tokenizer, asked, head=steering.head, spans=steering.spans, k=steering.k, style=style,
        max_new_tokens=length, batch=len(asked),
    )  # fmt: skip
    return [
        token_ids(tokenizer, attributed_prompt(tokenizer, *pair, attribution.spans, style), style)
        for pair, attribution in zip(asked, found, strict=True)
    ]


def _steered(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    asked: Sequence[Asked],
    method: Method,
    steering: Steering,
    style: Style,
    means: Means | None,
) -> AbstractContextManager[None]:
    if method == "zeroed":
        return ablating(model, steering.mlp_components, "zero")
    if method == "mean_ablated":
        return ablating(model, steering.mlp_components, "mean", means)
    located = [
        tokens_of(tokenizer, *render_located(tokenizer, *pair, style), special=style == "plain") for pair in asked
    ]
    marks = context_mask([len(one.ids) for one in located], [(one.first, one.stop) for one in located])
    return upweighting(model, steering.layers, marks, steering.beta)
