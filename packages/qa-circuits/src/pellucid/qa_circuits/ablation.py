"""Take components out of a model's answers: their direct edges to the logits only (thesis 8.3.3).

With component `j` ablated the final residual stream loses what `j` wrote into it (or gets its mean instead):

    logits = unembed(final_norm(residual - write(c_j) + write(replacement)))

Every other component still sees what `j` wrote. It is done at every position, so that it holds while a model generates
(with its cache), and for answers that are given. Several components go together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from pellucid.core.anatomy import DecoderAnatomy, decoder_anatomy
from pellucid.core.errors import DataError, OptionError
from pellucid.core.tracing import Replacement, Site, capture, find_module, patch
from torch import Tensor

from .asking import check_fits, device_of, token_ids
from .components import Component, check_sets
from .prompts import Style, batches, pad_left, pad_token, render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

By = Literal["zero", "mean"]
Means = Mapping[Component, Tensor]


def check_replacement(name: str) -> By:
    """Return what ablated components are replaced by, given as text, or raise OptionError."""
    if name not in get_args(By):
        raise OptionError(f"no replacement {name!r}: choose from {', '.join(get_args(By))}")
    return cast(By, name)


@contextmanager
def ablating(
    model: "PreTrainedModel", components: Sequence[Component], replacement: str = "zero", means: Means | None = None
) -> Iterator[None]:
    """Cut components off from the logits while the block runs, in any forward pass and in `model.generate`.

    The cost is one call of a layer's output projection where heads are ablated, and next to nothing otherwise.

    Args:
        model: a decoder of a known family, in eval mode; in memory, offloaded or quantised.
        components: which ones; none leaves the model as it is.
        replacement: "zero" takes away what they write (an attention layer's with its projection's bias), "mean" puts
            the mean of what they write in its place.
        means: for "mean", see `mean_writes`.

    Raises:
        OptionError: a component that the model lacks or that is named twice, an attention layer together with a head
            of it, no such replacement, or a mean that is lacking or not of the component's shape.
        SiteError: the family is not known, or the model did not run within the block.
    """
    anatomy = decoder_anatomy(model)
    check_sets([tuple(components)], anatomy.layers, anatomy.heads)
    if check_replacement(replacement) == "mean":
        _check_means(anatomy, components, means)
    else:
        means = None
    if not components:
        yield
        return
    with patch(model, _replacements(anatomy, components, means)):
        yield


@torch.inference_mode()
def mean_writes(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    asked: Sequence[tuple[str, str]],
    components: Sequence[Component],
    *,
    style: Style = "plain",
    batch: int = 8,
) -> dict[Component, Tensor]:
    """What components put out on average at the last position of prompts, where a reply begins.

    Args:
        model: a decoder of a known family, in eval mode.
        tokenizer: its tokenizer.
        asked: contexts with their questions, such as the probes that found the circuit; none that is measured later.
        components: of which the mean is taken.
        style: how prompts are rendered, see `prompts.render`.
        batch: prompts in one forward pass.

    Returns:
        Of each head the mean of its slice before the output projection, `(head_dim,)`; of each attention layer and MLP
        that of its output before any norm that follows it, `(width,)`; all float32 on the processor.

    Raises:
        DataError: nothing is asked.
        OptionError: a component that the model lacks, or a prompt longer than the model reads.
    """
    if not asked:
        raise DataError("there is nothing to take means over: give contexts with questions")
    anatomy = decoder_anatomy(model)
    check_sets([(component,) for component in components], anatomy.layers, anatomy.heads)
    sites = {component: _site(anatomy, component) for component in components}
    prompts = [token_ids(tokenizer, render(tokenizer, *pair, style), style) for pair in asked]
    check_fits(model, max(map(len, prompts)))
    totals: dict[Component, Tensor] = {}
    device = device_of(model)
    for chosen in batches([len(prompt) for prompt in prompts], max(batch, 1)):
        ids, mask = pad_left([prompts[i] for i in chosen], pad_token(tokenizer))
        with capture(model, set(sites.values()), positions=slice(-1, None), device="cpu") as store:
            model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(device),
                use_cache=False,
                logits_to_keep=1,
            )
        for component, site in sites.items():
            total = store[site][0][:, 0].double().sum(0)
            totals[component] = totals[component] + total if component in totals else total
    return {component: (total / len(prompts)).float() for component, total in totals.items()}


def _site(anatomy: DecoderAnatomy, component: Component) -> Site:
    if component.kind == "head":
        return anatomy.head(component.layer, cast(int, component.index))
    return anatomy.mlp(component.layer) if component.kind == "mlp" else anatomy.attention(component.layer)


def _check_means(anatomy: DecoderAnatomy, components: Sequence[Component], means: Means | None) -> None:
    for component in components:
        if means is None or component not in means:
            raise OptionError(f"replacing by the mean needs the mean of {component}: take it with `mean_writes`")
        width = anatomy.head_dim if component.kind == "head" else anatomy.model.config.hidden_size
        if means[component].shape != (width,):
            shape = tuple(means[component].shape)
            raise OptionError(f"the mean of {component} has shape {shape} where this model has ({width},)")


def _replacements(
    anatomy: DecoderAnatomy, components: Sequence[Component], means: Means | None
) -> dict[Site, Replacement]:
    """Hooks that note by how much each layer's ablated components move the stream, and one that moves it at the end.

    Notes are overwritten by each forward pass, so that one that broke off leaves nothing behind.
    """
    moves: dict[str, Tensor] = {}
    inputs: dict[int, Tensor] = {}
    found: dict[Site, Replacement] = {}

    def add(site: Site, note: Callable[[Tensor], None]) -> None:
        def unchanged(value: Tensor, _: int) -> Tensor:
            note(value)
            return value

        found[site] = unchanged

    def whole(component: Component, write: Callable[[int, Tensor], Tensor]) -> Callable[[Tensor], None]:
        def note(value: Tensor) -> None:
            clean = value.float()
            new = torch.zeros_like(clean) if means is None else means[component].to(clean).expand_as(clean)
            moves[str(component)] = write(component.layer, new) - write(component.layer, clean)

        return note

    def noting_inputs(layer: int) -> Callable[[Tensor], None]:
        return lambda value: inputs.__setitem__(layer, value)

    def some_heads(layer: int, heads: Sequence[Component]) -> Callable[[Tensor], None]:
        def note(value: Tensor) -> None:
            clean = value.float()
            change = _projected(anatomy, layer, _head_changes(anatomy, inputs.pop(layer), heads, means))
            new = clean + change.to(clean)
            moves[f"heads {layer}"] = anatomy.attention_write(layer, new) - anatomy.attention_write(layer, clean)

        return note

    for component in components:
        if component.kind == "mlp":
            add(anatomy.mlp(component.layer), whole(component, anatomy.mlp_write))
        elif component.kind == "attention":
            add(anatomy.attention(component.layer), whole(component, anatomy.attention_write))
    for layer in sorted({c.layer for c in components if c.kind == "head"}):
        add(anatomy.head_outputs(layer), noting_inputs(layer))
        members = [c for c in components if c.kind == "head" and c.layer == layer]
        add(anatomy.attention(layer), some_heads(layer, members))

    def at_the_end(value: Tensor, _: int) -> Tensor:
        moved = value.float()
        for move in moves.values():
            moved = moved + move.to(moved.device)
        return moved

    found[anatomy.final_residual()] = at_the_end
    return found


def _head_changes(anatomy: DecoderAnatomy, value: Tensor, heads: Sequence[Component], means: Means | None) -> Tensor:
    """The projection's input changed by the ablation: zero outside the ablated heads."""
    old = value.unflatten(-1, (anatomy.heads, anatomy.head_dim))
    change = torch.zeros_like(old)
    for head in heads:
        mean = 0 if means is None else means[head].to(old)
        change[..., head.index, :] = mean - old[..., head.index, :]
    return change.flatten(-2)


def _projected(anatomy: DecoderAnatomy, layer: int, change: Tensor) -> Tensor:
    """A change of the heads through the output projection, without its bias.

    `forward` is called, not the module, since the hooks that brought us here sit on the module; accelerate's hooks,
    which fetch offloaded weights, sit on `forward`.
    """
    module = find_module(anatomy.model, anatomy.output_projection(layer))
    out: Tensor = module.forward(change)
    if getattr(module, "bias", None) is not None:
        out = out - module.forward(torch.zeros_like(change[:1, :1]))
    return out
