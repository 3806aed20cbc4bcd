"""The forward pass as it runs: every ATen operation with what it read and wrote, and the module that it ran in.

A dispatch mode sees the operations of any model, unchanged and at once; exporting a graph first takes 20 to 30 seconds
even for a tiny Swin. Only the values that are asked for are kept.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pellucid.core.errors import ModelError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True)
class Ref:
    """A tensor that an operation wrote.

    Attributes:
        step: the operation's number.
        index: which of its outputs.
    """

    step: int
    index: int = 0


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        op: the overload, such as `aten.addmm.default`.
        args: positional arguments; recorded tensors are `Ref`s, all others (weights, images) as they are.
        kwargs: the others.
        module: dotted name of the innermost module that it ran in.
        shapes: of its outputs.
        fed: whether anything that it read came from the images.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: str
    shapes: tuple[tuple[int, ...], ...]
    fed: bool

    @property
    def name(self) -> str:
        """The operation's name without its overload and without the mark of one in place, such as `addmm`."""
        name = str(self.op.overloadpacket.__name__)
        return name.removesuffix("_") if self.op._schema.is_mutable else name


@dataclass
class Recording:
    """A recorded pass.

    Attributes:
        steps: the operations in order.
        values: what was kept.
        output: what the pass returned.
        output_value: its tensor, (batch, width).
    """

    steps: list[Step] = field(default_factory=list)
    values: dict[Ref, Tensor] = field(default_factory=dict)
    output: Ref | None = None
    output_value: Tensor | None = None


def record(
    model: nn.Module,
    forward: Callable[[nn.Module, Tensor], Tensor],
    images: Tensor,
    keep: frozenset[Ref] | None = None,
) -> Recording:
    """Run a model on images and write down what it does.

    Args:
        model: in eval mode; it is not changed.
        forward: from model and images to the representation, (batch, width).
        images: (batch, channels, height, width).
        keep: which values to keep; None keeps all.

    Raises:
        ModelError: the model is in train mode, or what `forward` returns did not come from the recorded pass.
    """
    training = [name or type(model).__name__ for name, part in model.named_modules() if part.training]
    if training:
        raise ModelError(f"{training[0]} is in train mode: call model.eval() first")
    mode = _Recorder(images, keep)
    with torch.no_grad(), _plain_attention(), _module_names(model, mode.stack), mode:
        found = forward(model, images)
    if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[0] != images.shape[0]:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(f"the representation is {shape}: it has to be a tensor (batch, width), pooled over tokens")
    mode.recording.output = mode.known.get(found)
    if mode.recording.output is None or not mode.recording.steps[mode.recording.output.step].fed:
        raise ModelError("the representation is not an output of the recorded pass: compute it inside `forward`")
    mode.recording.output_value = found
    return mode.recording


class _Recorder(TorchDispatchMode):
    def __init__(self, images: Tensor, keep: frozenset[Ref] | None) -> None:
        super().__init__()
        self.images, self.keep = images, keep
        self.recording, self.known, self.stack = Recording(), WeakTensorKeyDictionary(), [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        steps, values = self.recording.steps, self.recording.values
        fed = any(
            tensor is self.images or ((ref := self.known.get(tensor)) is not None and steps[ref.step].fed)
            for tensor in given
        )
        if func._schema.is_mutable and given:
            self._save_from_change(given[0])
        read, named = tree_map_only(Tensor, lambda tensor: self.known.get(tensor, tensor), (args, kwargs))
        found = func(*args, **kwargs)
        wrote = [leaf for leaf in (found if isinstance(found, tuple | list) else [found]) if isinstance(leaf, Tensor)]
        for index, tensor in enumerate(wrote):
            ref = Ref(len(steps), index)
            self.known[tensor] = ref
            if self.keep is None or ref in self.keep:
                values[ref] = tensor
        shapes = tuple(tuple(tensor.shape) for tensor in wrote)
        steps.append(Step(func, read, named, self.stack[-1], shapes, fed))
        return found

    def _save_from_change(self, tensor: Tensor) -> None:
        """Copy what was kept of a storage that an operation is about to write into."""
        storage = tensor.untyped_storage()._cdata
        for ref, value in self.recording.values.items():
            if value.untyped_storage()._cdata == storage:
                self.recording.values[ref] = value.clone()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without the fused multi-head attention that torch takes when no gradient is asked for."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _module_names(model: nn.Module, stack: list[str]) -> Iterator[None]:
    hooks = []
    for name, part in model.named_modules():

        def enter(_: nn.Module, __: Any, name: str = name) -> None:
            stack.append(name)

        def leave(_: nn.Module, __: Any, ___: Any) -> None:
            stack.pop()

        hooks += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
