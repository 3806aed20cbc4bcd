"""Edits of linear weights in closed form: solved, applied, taken back to the bit, composed, kept as files.

The thesis's three editors are one problem (see `LowRankUpdate`), and its solution is a LoRA. Two edits compose by
being solved together over the base, whether as `a + b` or by being applied one after the other, and either can be
taken out again.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .edit_files import read_edit, write_edit, write_lora
from .edited_modules import Fingerprint, base_output, carried, carry, find_linear, find_part
from .errors import DataError, ModelError, OptionError
from .low_rank import LowRankUpdate, joined

__all__ = ["Fingerprint", "LowRankUpdate", "WeightEdit", "base_output", "find_part", "joined", "solve"]


def solve(model: Any, module: str, keys: Tensor, values: Tensor, ridge: float) -> LowRankUpdate:
    """Find the smallest change of a linear module that sends each key to its value.

    Minimises `sum_i |W k_i + b - v_i|^2 + ridge |W - W0|^2` over W (thesis eq. 5.8), where W0 is the base weight even
    if the module carries edits, and the bias b stays: it is part of the module's output and so of the values.

    Args:
        model: an `nn.Module`, or a pipeline: then `module` starts with the component.
        module: dotted name of a linear module: ordinary, offloaded, or quantised.
        keys: `(n, in)`, inputs of the module.
        values: `(n, out)`, what its output shall be for them; `base_output` gives what it is for other inputs.
        ridge: above 0; the larger, the less the weight changes.

    Raises:
        SiteError: there is no such linear module, or the keys do not fit it.
        OptionError: the ridge is not above 0, or too small for keys that depend on each other.
        DataError: keys and values differ in number, there are none, or some are not finite.
    """
    outputs = find_linear(model, module).out_features
    if values.shape != (len(keys), outputs):
        raise DataError(f"the values of {module} have shape {tuple(values.shape)}, not ({len(keys)}, {outputs})")
    wanted = values.detach().to(device="cpu", dtype=torch.float64)
    return LowRankUpdate(module, keys, wanted - base_output(model, module, keys), ridge)


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """Updates of some modules of one base model.

    Attributes:
        updates: one for each module.
        base: the fingerprint of each module's base weight, by the module's name.

    Raises:
        OptionError: there is no update, or two are of one module, or a fingerprint is missing or left over.
    """

    updates: tuple[LowRankUpdate, ...]
    base: Mapping[str, Fingerprint]

    def __post_init__(self) -> None:
        modules = [update.module for update in self.updates]
        if not modules or sorted(modules) != sorted(self.base):
            raise OptionError(f"an edit needs one update a module and its fingerprint; the updates are of {modules}")

    @classmethod
    def of(cls, model: Any, updates: Iterable[LowRankUpdate]) -> "WeightEdit":
        """Bind updates to the model that they were solved for; several of one module are solved as one.

        Raises:
            OptionError: there is no update, or two of one module have different ridges.
            SiteError: the model has no such linear module.
        """
        together = _by_module(updates)
        return cls(tuple(together.values()), {name: Fingerprint.of(model, name) for name in together})

    def apply(self, model: Any) -> None:
        """Change the model. On modules that carry edits already, all are solved together over the base weight.

        Raises:
            ModelError: a base weight is not the one that the edit was made for.
            OptionError: the edit is applied already, or an edit that is applied has another ridge.
            SiteError: the model has no such linear module.
        """
        for name, fingerprint in self.base.items():
            found = Fingerprint.of(model, name)
            if not fingerprint.matches(found):
                what = "other weights" if found.shape == fingerprint.shape else f"weights of shape {found.shape}"
                raise ModelError(
                    f"the edit was made for another base model: here {name} has {what}; "
                    "apply it to the model it was made from"
                )
        before = {update.module: carried(model, update.module) for update in self.updates}
        if twice := [u.module for u in self.updates if _position(u, before[u.module]) is not None]:
            raise OptionError(f"the edit of {twice[0]} is applied already: revert it first")
        _carry_all(model, {update.module: (*before[update.module], update) for update in self.updates}, before)

    def revert(self, model: Any) -> None:
        """Take the edit back. A module that carries no other edit gets its base weight, exact to the bit.

        Raises:
            OptionError: this edit, in just this form, is not applied to the model.
            SiteError: the model has no such linear module.
        """
        before = {update.module: carried(model, update.module) for update in self.updates}
        after = {}
        for update in self.updates:
            name = update.module
            if (position := _position(update, before[name])) is None:
                raise OptionError(
                    f"this edit of {name} is not applied, so it cannot be reverted: revert what was applied"
                )
            after[name] = (*before[name][:position], *before[name][position + 1 :])
        _carry_all(model, after, before)

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Apply the edit within the block, and revert it at its end, whatever happens there."""
        self.apply(model)
        try:
            yield
        finally:
            self.revert(model)

    def __add__(self, other: "WeightEdit") -> "WeightEdit":
        """Solve both edits as one over their common base.

        Raises:
            ModelError: the edits are made for different bases.
            OptionError: they have different ridges at one module.
        """
        _check_one_base(self, other)
        return WeightEdit(tuple(_by_module([*self.updates, *other.updates]).values()), {**other.base, **self.base})

    def __sub__(self, other: "WeightEdit") -> "WeightEdit":
        """The same as `without`."""
        return self.without(other)

    def without(self, other: "WeightEdit") -> "WeightEdit":
        """Solve again without the other edit's keys, so that `(a + b).without(b)` is `a`.

        Raises:
            OptionError: the other is not part of this edit, or nothing would be left.
            ModelError: the edits are made for different bases.
        """
        _check_one_base(self, other)
        rest = {update.module: update for update in self.updates}
        for update in other.updates:
            if update.module not in rest:
                raise OptionError(f"the edit to take out changes {update.module}, and this one does not")
            left = rest.pop(update.module).without(update)
            if left is not None:
                rest[update.module] = left
        if not rest:
            raise OptionError("nothing would be left of the edit: revert it instead")
        kept = tuple(rest[update.module] for update in self.updates if update.module in rest)
        return WeightEdit(kept, {name: self.base[name] for name in rest})

    def save(self, path: str | Path) -> Path:
        """Write the edit as a safetensors file, and return its path.

        Args:
            path: a file `....safetensors`, or a folder, where the file is called `edit.safetensors`.

        Raises:
            DataError: it cannot be written there.
        """
        return write_edit(path, self.updates, self.base)

    @classmethod
    def load(cls, path: str | Path) -> "WeightEdit":
        """Read an edit that `save` wrote, from the file or its folder.

        Raises:
            DataError: there is no such file, or it does not hold an edit.
        """
        return cls(*read_edit(path))

    def to_lora(self, model: Any, folder: str | Path) -> tuple[Path, ...]:
        """Write the edit as LoRA for other tools, and return the files' paths.

        What `pipe.load_lora_weights(folder)` can load goes into `pytorch_lora_weights.safetensors`. A component that
        the pipeline cannot load LoRA into (PixArt's transformer, a T5 encoder) gets an adapter in PEFT's format, in
        a folder of the component's name, for `PeftModel.from_pretrained(pipe.transformer, folder / "transformer")`.
        Of a plain model the adapter lies in the folder itself. Alpha equals the rank, so the scale is 1.

        Args:
            model: the pipeline or module that the edit's names belong to.
            folder: made if it does not exist.

        Raises:
            SiteError: the model has no such linear module.
            DataError: the folder cannot be written.
        """
        return write_lora(folder, model, self.updates)


def _by_module(updates: Iterable[LowRankUpdate]) -> dict[str, LowRankUpdate]:
    together: dict[str, list[LowRankUpdate]] = {}
    for update in updates:
        together.setdefault(update.module, []).append(update)
    return {name: joined(some) for name, some in together.items()}


def _position(update: LowRankUpdate, updates: tuple[LowRankUpdate, ...]) -> int | None:
    return next((i for i, other in enumerate(updates) if update.same(other)), None)


def _carry_all(
    model: Any, after: Mapping[str, tuple[LowRankUpdate, ...]], before: Mapping[str, tuple[LowRankUpdate, ...]]
) -> None:
    """Change all modules or none."""
    done: list[str] = []
    try:
        for name, updates in after.items():
            carry(model, name, updates)
            done.append(name)
    except Exception:
        for name in done:
            carry(model, name, before[name])
        raise


def _check_one_base(a: WeightEdit, b: WeightEdit) -> None:
    for name in a.base.keys() & b.base.keys():
        if not a.base[name].matches(b.base[name]):
            raise ModelError(f"the edits of {name} are made for different base models: solve both on one")
