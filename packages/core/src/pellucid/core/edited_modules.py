"""One linear module that carries edits: its base weight stays known, whether the edits are merged or hooked on.

An ordinary `nn.Linear` gets a merged weight, and its own Parameter is put aside: taking it back is exact to the bit.
Where the weight cannot be written (offloaded by accelerate or diffusers, quantised, wrapped by an adapter) a forward
hook adds `up(down(x))` to the output.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .errors import ModelError, SiteError
from .low_rank import LowRankUpdate, joined
from .tracing import find_module

_SAMPLES = 256
# What rounding to a number of bits does to a weight, relative to its root mean square.
_QUANTISED = {"Int8Params": ("8bit", 0.05), "Params4bit": ("4bit", 0.25)}
_CARRIED = "_pellucid_carried"


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What a base weight is recognised by, in any precision.

    Attributes:
        shape: `(out, in)`.
        dtype: the precision it was read in, such as "float32", or "8bit" and "4bit".
        sample: 256 entries at fixed places, float32.
    """

    shape: tuple[int, int]
    dtype: str
    sample: Tensor

    @classmethod
    def of(cls, model: Any, name: str) -> "Fingerprint":
        """Take the fingerprint of a module's base weight, whatever edits it carries.

        Raises:
            SiteError: there is no such module, or it is not linear.
            ModelError: its weight is on no device and offloaded nowhere.
        """
        module = find_linear(model, name)
        outputs, inputs = module.out_features, module.in_features
        # Steps by the golden ratio spread over rows and columns alike, whatever the shape.
        places = [int(i * 0.6180339887 % 1 * outputs * inputs) for i in range(_SAMPLES)]
        rows, columns = torch.tensor([divmod(place, inputs) for place in places]).T
        with _readable_weight(model, name) as weight:
            if weight is not None:
                sample = weight[rows.to(weight.device), columns.to(weight.device)]
                dtype = weight.dtype
            else:
                dtype = _input_dtype(module)
                one_hot = torch.zeros(_SAMPLES, inputs).index_put((torch.arange(_SAMPLES), columns), torch.ones(()))
                every = _forward(module, one_hot) - _forward(module, torch.zeros(1, inputs))
                sample = every[torch.arange(_SAMPLES), rows]
        kind, _ = _QUANTISED.get(type(getattr(module, "weight", None)).__name__, (str(dtype).removeprefix("torch."), 0))
        return cls((outputs, inputs), kind, sample.detach().to(device="cpu", dtype=torch.float32))

    def matches(self, other: "Fingerprint") -> bool:
        """Tell whether both are of one weight, up to the rounding of the coarser precision."""
        if self.shape != other.shape:
            return False
        off, scale = ((x.double().square().mean().sqrt().item()) for x in (self.sample - other.sample, self.sample))
        relative, absolute = (max(pair) for pair in zip(_rounding(self.dtype), _rounding(other.dtype), strict=True))
        return off <= relative * scale + absolute


def find_part(model: Any, name: str) -> nn.Module:
    """Return the module called `name` of a module or of a diffusers pipeline.

    Args:
        model: an `nn.Module`, or a pipeline: then the name starts with the component, such as `unet.`.
        name: dotted name, as in `named_modules()`.

    Raises:
        SiteError: there is none; the message gives the nearest names.
    """
    root, rest = _component(model, name)
    return find_module(root, rest)


def find_linear(model: Any, name: str) -> Any:
    """Return the module called `name`; a SiteError says if there is none or if it is not a linear layer."""
    module = find_part(model, name)
    if not (hasattr(module, "in_features") and hasattr(module, "out_features")):
        raise SiteError(f"{name} is a {type(module).__name__}; only linear layers can be edited in closed form")
    return module


def base_output(model: Any, name: str, inputs: Tensor) -> Tensor:
    """What a linear module gives without any edit, bias included: `(n, in)` -> `(n, out)`, float64 on the processor.

    Weights that can be read are used in their own precision, or in float32 if that is higher: the result is exact to
    about 1e-6 of its size, as the model's own forward pass is. A quantised or wrapped module is called itself.

    Raises:
        SiteError: there is no such linear module, or the inputs do not fit it.
        ModelError: its weight is on no device and offloaded nowhere.
    """
    module = find_linear(model, name)
    if inputs.ndim != 2 or inputs.shape[1] != module.in_features:
        raise SiteError(f"the inputs of {name} have shape {tuple(inputs.shape)}, not (n, {module.in_features})")
    with torch.no_grad(), _readable_weight(model, name) as weight:
        if weight is None:
            return _forward(module, inputs)
        # In float64 this one product would take three times as long as all the rest of an edit.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        bias = None if module.bias is None else module.bias.to(dtype)
        return nn.functional.linear(inputs.detach().to(weight.device, dtype), weight.to(dtype), bias).double().cpu()


def carried(model: Any, name: str) -> tuple[LowRankUpdate, ...]:
    """Return the updates that a module carries, in the order in which they were applied."""
    state = getattr(find_part(model, name), _CARRIED, None)
    return () if state is None else state.updates


def carry(model: Any, name: str, updates: tuple[LowRankUpdate, ...]) -> None:
    """Make a module carry these updates over its base weight and no others; none gives back the base to the bit.

    Raises:
        OptionError: the updates cannot be solved as one.
        ModelError: the weight was merged, and has been offloaded or wrapped since.
    """
    module = find_linear(model, name)
    state: _Carried | None = getattr(module, _CARRIED, None)
    merging = _is_plain(model, name) if state is None else state.original is not None
    if merging and not _is_plain(model, name):
        raise ModelError(f"{name} was offloaded or wrapped after an edit was applied: revert first, then offload")
    joint = joined(updates) if updates else None
    if joint is not None:
        joint.up  # noqa: B018  solved before anything changes: an edit is carried whole or not at all
    original = state.original if state is not None else module.weight if merging else None
    if state is not None and state.handle is not None:
        state.handle.remove()
    if original is not None:
        # The model may have been moved or cast meanwhile.
        original.data = original.data.to(device=module.weight.device, dtype=module.weight.dtype)
        module.weight = original if joint is None else _merged(original, joint)
    if joint is None:
        module.__dict__.pop(_CARRIED, None)
        return
    handle = None if merging else module.register_forward_hook(_Adding(joint))
    module.__dict__[_CARRIED] = _Carried(updates, original, handle)


@dataclass(frozen=True)
class _Carried:
    """Put on the module itself, so that a copy of the model can revert as well."""

    updates: tuple[LowRankUpdate, ...]
    original: nn.Parameter | None
    handle: RemovableHandle | None


class _Adding:
    """A forward hook that adds a low-rank update's output, computed in float32 or better."""

    def __init__(self, update: LowRankUpdate) -> None:
        self.update = update
        self.placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        dtype = torch.promote_types(output.dtype, torch.float32)
        where = (output.device, dtype)
        if where not in self.placed:
            self.placed[where] = (self.update.down.to(*where), self.update.up.to(*where))
        down, up = self.placed[where]
        added = nn.functional.linear(nn.functional.linear(inputs[0].to(*where), down), up)
        return (output.to(dtype) + added).to(output.dtype)


def _merged(original: nn.Parameter, update: LowRankUpdate) -> nn.Parameter:
    dtype = torch.promote_types(original.dtype, torch.float32)
    down, up = (factor.to(original.device, dtype) for factor in (update.down, update.up))
    with torch.no_grad():
        weight = torch.addmm(original.to(dtype), up, down).to(original.dtype)
    return nn.Parameter(weight, requires_grad=original.requires_grad)


def _is_plain(model: Any, name: str) -> bool:
    """Whether the weight is an ordinary tensor that stays where it is, so that an edit can be merged into it."""
    from accelerate.utils.modeling import has_offloaded_params

    module = find_part(model, name)
    weight = module._parameters.get("weight")
    return (
        isinstance(module, nn.Linear)
        and type(weight) is nn.Parameter
        and weight.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        and not weight.is_meta
        and not has_offloaded_params(module)
        and not _is_hooked_by_diffusers(model, name)
    )


def _is_hooked_by_diffusers(model: Any, name: str) -> bool:
    """Whether diffusers moves or casts weights here (group offloading, layerwise casting); its hook may sit above."""
    module, rest = _component(model, name)
    path = [module]
    for part in rest.split("."):
        path.append(path[-1].get_submodule(part))
    return any(hasattr(module, "_diffusers_hook") for module in path)


def _component(model: Any, name: str) -> tuple[nn.Module, str]:
    """The module that a name starts from, and the rest of the name within it."""
    if isinstance(model, nn.Module):
        return model, name
    component, _, rest = name.partition(".")
    found = getattr(model, component, None)
    if isinstance(found, nn.Module):
        return found, rest
    modules = sorted(key for key, value in model.components.items() if isinstance(value, nn.Module))
    near = difflib.get_close_matches(component, modules, n=3, cutoff=0.3) or modules
    raise SiteError(f"{type(model).__name__} has no part {component!r} (of {name!r}); near are {', '.join(near)}")


@contextmanager
def _readable_weight(model: Any, name: str) -> Iterator[Tensor | None]:
    """The base weight within the block, on the device where it is used; None if only the module's forward tells it."""
    from accelerate.utils.modeling import align_module_device, has_offloaded_params

    module = find_linear(model, name)
    state: _Carried | None = getattr(module, _CARRIED, None)
    if state is not None and state.original is not None:
        yield state.original
        return
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.is_meta and not has_offloaded_params(module):
        raise ModelError(f"the weight of {name} is on no device: load the model with its weights")
    if not isinstance(module, nn.Linear):
        yield None
        return
    with align_module_device(module):
        readable = type(module.weight) in (nn.Parameter, Tensor) and module.weight.is_floating_point()
        yield module.weight if readable else None


def _forward(module: Any, inputs: Tensor) -> Tensor:
    """Call a module without the hooks on its output, and so without edits; float64 on the processor."""
    place = next((p for p in module.parameters() if not p.is_meta), None)
    device = inputs.device if place is None else place.device
    with torch.no_grad():
        out: Tensor = module.forward(inputs.to(device, _input_dtype(module)))
    return out.double().cpu()


def _input_dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _rounding(dtype: str) -> tuple[float, float]:
    """Relative and absolute root mean square difference to allow for a precision."""
    for name, relative in _QUANTISED.values():
        if dtype == name:
            return relative, 0.0
    info = torch.finfo(getattr(torch, dtype))
    return max(info.eps, 1e-6), info.smallest_normal * info.eps
