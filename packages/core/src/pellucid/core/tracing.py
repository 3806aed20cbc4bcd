"""Read and replace activations during a forward pass, with hooks that always come off again.

Works on any `torch.nn.Module`: on modules that accelerate offloads and on 4-bit modules too, since only
activations are touched, never weights.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .errors import SiteError

Positions = slice | list[int] | Tensor
Replacement = Tensor | Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Site:
    """A place in a model whose activation can be read or replaced.

    Attributes:
        module: the module's dotted name, as in `model.named_modules()`.
        io: its first input or its output (element 0, where the output is a tuple).
        channels: `(start, stop)` in the last dimension, such as one head's slice; None for all of it.
    """

    module: str
    io: Literal["input", "output"]
    channels: tuple[int, int] | None = None

    def __str__(self) -> str:
        part = "" if self.channels is None else f"[{self.channels[0]}:{self.channels[1]}]"
        return f"{self.io} of {self.module}{part}"


@contextmanager
def capture(
    model: nn.Module,
    sites: Iterable[Site],
    positions: Positions | None = None,
    device: torch.device | str | None = None,
) -> Iterator[dict[Site, list[Tensor]]]:
    """Record the activations at `sites` while the block runs.

    Args:
        model: the model whose modules the sites name.
        sites: what to record.
        positions: which indices of dimension 1 (tokens) to keep; None keeps all.
        device: where to keep the copies; None leaves them where they arise.

    Yields:
        For each site a list with one detached copy a call of its module (several for denoising steps or generation).

    Raises:
        SiteError: a site names no module, or channels that its activation does not have.
    """
    store: dict[Site, list[Tensor]] = {site: [] for site in sites}

    def record(site: Site) -> Callable[[Tensor], None]:
        def keep(value: Tensor) -> None:
            value = _slice(site, value).detach()
            value = value if positions is None else value[:, positions]
            store[site].append(value.to(device=device or value.device, copy=True))

        return keep

    with ExitStack() as stack:
        for site in store:
            stack.callback(_hook(model, site, record(site)).remove)
        yield store


@contextmanager
def patch(model: nn.Module, replacements: Mapping[Site, Replacement]) -> Iterator[None]:
    """Replace the activations at some sites while the block runs.

    A tensor replaces the activation as it is (same shape). A function gets the activation and the number of the
    call (0, 1, ...) and returns the replacement. Hooks run in the order of registration: a `capture` opened inside
    a `patch` sees the replaced values.

    Raises:
        SiteError: a site names no module, a replacement has another shape than the activation, or, at the end of the
            block, a site's module was never called (so that nothing was patched).
    """
    calls = dict.fromkeys(replacements, 0)

    def replace(site: Site, replacement: Replacement) -> Callable[[Tensor], Tensor]:
        def change(value: Tensor) -> Tensor:
            old = _slice(site, value)
            new = replacement if isinstance(replacement, Tensor) else replacement(old, calls[site])
            calls[site] += 1
            if new.shape != old.shape:
                raise SiteError(f"the {site} has shape {tuple(old.shape)}, its replacement {tuple(new.shape)}")
            new = new.to(device=value.device, dtype=value.dtype)
            if site.channels is None:
                return new
            value = value.clone()
            value[..., slice(*site.channels)] = new
            return value

        return change

    with ExitStack() as stack:
        for site, replacement in replacements.items():
            stack.callback(_hook(model, site, replace(site, replacement)).remove)
        yield
    for site, count in calls.items():
        if count == 0:
            raise SiteError(f"the {site} was never computed in this block, so nothing was patched there")


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the module called `name`; a SiteError names the nearest ones where there is none."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        near = difflib.get_close_matches(name, [n for n, _ in model.named_modules()], n=3, cutoff=0.3)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise SiteError(f"{type(model).__name__} has no module {name!r}{hint}") from None


def _slice(site: Site, value: Tensor) -> Tensor:
    if site.channels is None:
        return value
    start, stop = site.channels
    if not 0 <= start < stop <= value.shape[-1]:
        raise SiteError(
            f"channels {start}:{stop} do not lie in the {value.shape[-1]} of the {site.io} of {site.module}"
        )
    return value[..., start:stop]


def _hook(model: nn.Module, site: Site, visit: Callable[[Tensor], Tensor | None]) -> Any:
    """Call `visit` on the site's tensor; what it returns, if anything, takes the tensor's place."""
    module = find_module(model, site.module)
    if site.io == "output":

        def after(_: nn.Module, __: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            if not isinstance(first, Tensor):
                raise SiteError(f"the {site} is a {type(first).__name__}, not a tensor")
            new = visit(first)
            if new is None:
                return None
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return module.register_forward_hook(after)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Attention blocks are often called with keywords only; `hidden_states` is then the input.
        key = None if args else next((k for k, v in kwargs.items() if isinstance(v, Tensor)), None)
        first = args[0] if args else kwargs.get("hidden_states", kwargs.get(key) if key else None)
        if not isinstance(first, Tensor):
            raise SiteError(f"the {site} is not a tensor")
        new = visit(first)
        if new is None:
            return None
        if args:
            return (new, *args[1:]), kwargs
        name = "hidden_states" if "hidden_states" in kwargs else key
        return args, kwargs | {name: new}

    return module.register_forward_pre_hook(before, with_kwargs=True)
