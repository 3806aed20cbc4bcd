"""Interventions inside one batch: clean, corrupted and restored runs are its rows, and activations go between them.

So the clean run is computed once, nothing is stored, and the intervention holds at every denoising step. Under
classifier-free guidance a pipeline doubles the batch, unconditional rows first: with R rows, row r of the prompts is
row R + r of that batch, and row r of it is its unconditional twin.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import OptionError, SiteError
from pellucid.core.tracing import Site, find_module, patch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pellucid.core.denoiser_anatomy import CrossAttention

Pairs = Sequence[tuple[int, int]]

# Where text (beside time and size) enters all blocks at once: SDXL and IF, then SD3 and Flux.
_POOLED = ("add_embedding", "time_text_embed")


def pooled_site(denoiser: nn.Module) -> Site | None:
    """Where pooled text reaches a denoiser beside its cross-attention (SDXL, IF, SD3, Flux); None where it does not."""
    for name in _POOLED:
        if getattr(denoiser, name, None) is not None:
            return Site(name, "output")
    return None


@contextmanager
def restoring(denoiser: nn.Module, copies: Mapping[Site, Pairs], rows: int) -> Iterator[None]:
    """Copy activations between the rows of a batch while the block runs (thesis eq. 5.4).

    Args:
        denoiser: the network whose modules the sites name.
        copies: for each site the pairs `(from_row, to_row)`; the unconditional twins are copied in the same way.
        rows: how many rows the pipeline is called with.

    Raises:
        SiteError: an activation whose batch is neither `rows` nor twice as many, or a site that is never computed.
        OptionError: a row that is not in the batch.
    """
    for pairs in copies.values():
        _check(pairs, rows)

    def change(site: Site, pairs: Pairs) -> Callable[[Tensor, int], Tensor]:
        def copy(value: Tensor, _: int) -> Tensor:
            offsets = range(0, _halves(value, rows, str(site)) * rows, rows)
            return _copied(value, [(source + k, target + k) for k in offsets for source, target in pairs])

        return copy

    with patch(denoiser, {site: change(site, pairs) for site, pairs in copies.items() if pairs}):
        yield


@contextmanager
def altering(
    denoiser: nn.Module,
    cross_attentions: Sequence["CrossAttention"],
    swaps: Mapping[int, Pairs],
    rows: int,
    pooled: Pairs = (),
) -> Iterator[None]:
    """Let rows read the text of other rows in some cross-attention layers while the block runs (thesis 5.8.1).

    The inputs of the layer's key and value projections are swapped, and its attention mask (PixArt's, which depends
    on the prompt). In joint-attention blocks (SD3, Flux) the text changes from block to block: there a row reads what
    the other row's text has become in the other row's run. Unconditional rows keep their text.

    Args:
        denoiser: the network.
        cross_attentions: its layers in execution order.
        swaps: index of the layer -> pairs `(row, other_row)`: `row` gets the text of `other_row` there.
        rows: how many rows the pipeline is called with.
        pooled: pairs of rows for the pooled text that goes around cross-attention (SDXL, IF, SD3, Flux).

    Raises:
        SiteError: no such layer, a layer that is never computed, or pooled text where the denoiser reads none.
        OptionError: a row that is not in the batch.
    """
    replacements: dict[Site, Callable[[Tensor, int], Tensor]] = {}
    sites: list[tuple[Site, Pairs]] = []
    for index, pairs in swaps.items():
        if not 0 <= index < len(cross_attentions):
            raise SiteError(f"there is no cross-attention layer {index}: there are {len(cross_attentions)}, from 0 on")
        layer = cross_attentions[index]
        sites += [(Site(layer.key, "input"), pairs), (Site(layer.value, "input"), pairs)]
    if pooled:
        site = pooled_site(denoiser)
        if site is None:
            raise SiteError(f"no pooled text reaches {type(denoiser).__name__} beside its cross-attention")
        sites.append((site, pooled))

    def swap(site: Site, pairs: Pairs) -> Callable[[Tensor, int], Tensor]:
        return lambda value, _: _swapped(value, pairs, rows, str(site))

    for site, pairs in sites:
        _check(pairs, rows)
        if pairs:
            replacements[site] = swap(site, pairs)
    with ExitStack() as stack:
        for index, pairs in swaps.items():
            if pairs:
                module = find_module(denoiser, cross_attentions[index].name)
                stack.callback(module.register_forward_pre_hook(_mask_swap(pairs, rows), with_kwargs=True).remove)
        stack.enter_context(patch(denoiser, replacements))
        yield


def _mask_swap(pairs: Pairs, rows: int) -> Callable[..., Any]:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        if not isinstance(mask, Tensor):
            return None
        return args, kwargs | {"attention_mask": _swapped(mask, pairs, rows, "attention mask")}

    return before


def _swapped(value: Tensor, pairs: Pairs, rows: int, what: str) -> Tensor:
    """Copies among the conditional rows, which are the last of the batch."""
    shift = (_halves(value, rows, what) - 1) * rows
    return _copied(value, [(other + shift, row + shift) for row, other in pairs])


def _copied(value: Tensor, pairs: Pairs) -> Tensor:
    new = value.clone()
    new[[target for _, target in pairs]] = value[[source for source, _ in pairs]]
    return new


def _halves(value: Tensor, rows: int, what: str) -> int:
    halves, rest = divmod(value.shape[0], rows)
    if rest or halves not in (1, 2):
        raise SiteError(f"the {what} has a batch of {value.shape[0]}, where {rows} rows (or twice as many) run")
    return halves


def _check(pairs: Pairs, rows: int) -> None:
    outside = [row for pair in pairs for row in pair if not 0 <= row < rows]
    if outside:
        raise OptionError(f"there is no row {outside[0]} in a batch of {rows}")
