"""The regularised empirical risk of a model as a function of one flat parameter vector, and its derivatives.

Two conventions of L2 are in use, and estimates agree with retraining only where both follow the same one. With
per-example losses l_i, weights w_i (1 unless said otherwise; removing a group U is w = 1 - indicator(U)) and l2:

- `mean`: F_w = sum_i w_i l_i / sum_i w_i + (l2 / 2) |theta|^2. The regulariser is renormalised with the data as in
  thesis eq. 3.6: every point carries its share, so that removing m points takes g_U + m l2 theta and H_U + m l2 I.
- `sum`: F_w = sum_i w_i l_i + (l2 / 2) |theta|^2. The regulariser stands beside the data: a removed group takes its
  bare gradient g_U and Hessian H_U.

Every derivative is a sum over the whole data set, in blocks of rows (and of vectors) that bound memory: block sizes
change results by rounding alone.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from pellucid.core.errors import DataError, OptionError
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

Convention = Literal["mean", "sum"]
LossFunction = Callable[[Tensor, Tensor], Tensor]
"""loss(outputs, targets) -> per-example losses of shape (batch,)."""

_BUDGET = 1 << 25
"""How many activations (rows x vectors x activations of one example) are differentiated at once: some 1 GiB at peak."""


class Objective:
    """Regularised empirical risk of a model as a function of one flat parameter vector.

    Results are detached tensors in the model's dtype, on the model's device; for exact work use a float64 model.

    Args:
        model: any module; `model(inputs)` gives the outputs. It must treat examples independently and without chance.
        loss: loss(outputs, targets) -> (batch,) per-example losses, such as
            `functools.partial(F.cross_entropy, reduction="none")`.
        inputs: shape (n, ...); floating-point inputs are cast to the model's dtype.
        targets: shape (n, ...).
        l2: strength of the regulariser (l2 / 2) |theta|^2, over the selected parameters.
        convention: how the regulariser stands to the losses; see the module's docstring.
        parameters: which parameters theta holds: "all" (those that require a gradient), "last" (those of the last
            module that has any), or names and dotted prefixes of `model.named_parameters()`. The rest are constants.
        chunk: how many examples go through the model at once, at most (bounds memory).

    Raises:
        OptionError: for an unknown parameter name, mixed dtypes, a batch norm or dropout that is in training mode,
            or an l2, convention or chunk that cannot work.
        DataError: if there are no examples, or inputs and targets differ in length.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        inputs: Tensor,
        targets: Tensor,
        *,
        l2: float = 0.0,
        convention: Convention = "mean",
        parameters: str | Sequence[str] = "all",
        chunk: int = 1024,
    ) -> None:
        if convention not in ("mean", "sum"):
            raise OptionError(f"convention is {convention!r}: choose 'mean' or 'sum'")
        if not 0 <= l2 < float("inf"):
            raise OptionError(f"l2 is {l2}: it must be a finite number, 0 or more")
        if chunk < 1:
            raise OptionError(f"chunk is {chunk}: it must be 1 or more")
        if len(inputs) != len(targets):
            raise DataError(f"there are {len(inputs)} inputs and {len(targets)} targets: they must pair up")
        if not len(inputs):
            raise DataError("there are no examples: give at least one")
        _check_repeatable(model)
        self.model, self.loss, self.inputs, self.targets = model, loss, inputs, targets
        self.l2, self.convention, self.parameters, self.chunk = l2, convention, parameters, chunk
        self._names = _select(model, parameters)
        chosen = dict(model.named_parameters())
        self._shapes = [chosen[name].shape for name in self._names]
        self._sizes = [chosen[name].numel() for name in self._names]
        dtypes = {chosen[name].dtype for name in self._names}
        if len(dtypes) > 1:
            raise OptionError(f"the parameters have dtypes {sorted(map(str, dtypes))}: give them one, or select some")
        self.dtype, self.device = dtypes.pop(), chosen[self._names[0]].device
        self._constants = {name: value.detach() for name, value in chosen.items() if name not in set(self._names)}
        self._width: int | None = None

    @property
    def n(self) -> int:
        """How many examples there are."""
        return len(self.inputs)

    @property
    def dim(self) -> int:
        """How many parameters theta holds."""
        return sum(self._sizes)

    @property
    def theta(self) -> Tensor:
        """A flat copy of the model's current selected parameters, shape (dim,)."""
        chosen = dict(self.model.named_parameters())
        return torch.cat([chosen[name].detach().reshape(-1) for name in self._names]).clone()

    def install(self, theta: Tensor) -> None:
        """Write a flat vector, shape (dim,), into the model."""
        chosen = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in self._unflatten(self._checked(theta)).items():
                chosen[name].copy_(value)

    def with_data(self, inputs: Tensor, targets: Tensor) -> "Objective":
        """Return the same objective on other data, such as test points."""
        return Objective(
            self.model,
            self.loss,
            inputs,
            targets,
            l2=self.l2,
            convention=self.convention,
            parameters=self.parameters,
            chunk=self.chunk,
        )

    def forward(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """Return the model's outputs on a batch of inputs with the parameters theta; can be differentiated."""
        return functional_call(self.model, {**self._constants, **self._unflatten(theta)}, (inputs,))

    def losses(self, theta: Tensor, rows: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return the unregularised losses of all examples, or of some rows, shape (k,).

        Raises:
            DataError: naming the first row whose loss is not finite.
        """
        theta, index = self._checked(theta), self._rows(rows)
        with torch.no_grad():
            losses = torch.cat([self._block_losses(theta, part) for part in index.split(self.chunk)])
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            where = int(bad[0])
            raise DataError(
                f"row {int(index[where])} has loss {float(losses[where])}: mend or leave out that example, "
                "or train with a smaller step"
            )
        return losses

    def value(self, theta: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return F_w(theta), a scalar; weights have shape (n,)."""
        w = self._weights(weights)
        data = (w * self.losses(theta)).sum() / self._total(w)
        return data + self.l2 / 2 * self._checked(theta).square().sum()

    def gradient(self, theta: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the gradient of F_w, shape (dim,); weights have shape (n,)."""
        w = self._weights(weights)
        return self.summed_gradient(theta, w[:, None])[:, 0] / self._total(w) + self.l2 * self._checked(theta)

    def summed_gradient(self, theta: Tensor, weights: Tensor, rows: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return sum_i w_ij grad l_i for many weightings at once, without regulariser or normalisation.

        Args:
            theta: shape (dim,).
            weights: shape (n, k), or (r, k) with `rows`; what is zero in all columns is not computed.
            rows: the r examples to sum over; all n where not given.

        Returns:
            Shape (dim, k).
        """
        theta, index = self._checked(theta), self._rows(rows)
        weights = self._weights(weights, columns=True, n=len(index))
        out = theta.new_zeros(self.dim, weights.shape[1])
        for places, columns in self._blocks(weights, weights.shape[1]):
            pull = vjp(partial(self._block_losses, rows=index[places]), theta)[1]
            out[:, columns] += vmap(lambda w: pull(w)[0], out_dims=1)(weights[places][:, columns].T)  # noqa: B023
        return self._finite(out, theta, "gradient")

    def per_example_gradients(self, theta: Tensor, rows: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return each example's unregularised loss gradient, shape (k, dim), by `vmap(grad)` in chunks of examples."""
        theta, index = self._checked(theta), self._rows(rows)
        each = vmap(grad(self._one_loss), in_dims=(None, 0, 0))
        size = max(1, min(self.chunk, _BUDGET // (self.dim + self._example_width())))
        parts = [each(theta, *self._batch(part)) for part in index.split(size)]
        return self._finite(torch.cat(parts), theta, "gradient")

    def per_example_hvp(self, theta: Tensor, vector: Tensor, rows: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return each example's Hessian times one vector (dim,), unregularised, shape (k, dim)."""
        theta, vector, index = self._checked(theta), self._checked(vector), self._rows(rows)

        def product(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return vjp(lambda s: grad(self._one_loss)(s, x, y), t)[1](vector)[0]

        size = max(1, min(self.chunk, _BUDGET // (2 * self.dim + 2 * self._example_width())))
        parts = [vmap(product, in_dims=(None, 0, 0))(theta, *self._batch(part)) for part in index.split(size)]
        return self._finite(torch.cat(parts), theta, "Hessian-vector product")

    def hvp(self, theta: Tensor, vectors: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the Hessian of F_w times many vectors, over the whole data set.

        Args:
            theta: shape (dim,).
            vectors: shape (dim, k).
            weights: shape (n,), or (n, k): one weighting a vector.

        Returns:
            Shape (dim, k).
        """
        w = self._weights(weights, columns=weights is not None and weights.ndim == 2)
        return self.summed_hvp(theta, vectors, w) / self._total(w) + self.l2 * vectors

    def summed_hvp(
        self,
        theta: Tensor,
        vectors: Tensor,
        weights: Tensor | None = None,
        rows: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Return sum_i w_ij H_i v_j, without regulariser or normalisation.

        Args:
            theta: shape (dim,).
            vectors: shape (dim, k).
            weights: shape (n,), or (n, k): one weighting a vector; r instead of n with `rows`. Ones where not given;
                what is zero in all columns is not computed.
            rows: the r examples to sum over; all n where not given.

        Returns:
            Shape (dim, k).
        """
        theta, index = self._checked(theta), self._rows(rows)
        if vectors.ndim != 2 or len(vectors) != self.dim:
            raise OptionError(f"vectors have shape {tuple(vectors.shape)}: they must be columns of {self.dim} numbers")
        vectors = vectors.detach().to(theta)
        shared = weights is None or weights.ndim == 1
        weights = self._weights(weights, columns=not shared, n=len(index))
        if not shared and weights.shape[1] != vectors.shape[1]:
            raise OptionError(f"there are {weights.shape[1]} weightings of {vectors.shape[1]} vectors: give one each")
        out = torch.zeros_like(vectors)
        for places, columns in self._blocks(weights, vectors.shape[1]):

            def product(v: Tensor, w: Tensor, rows: Tensor = index[places]) -> Tensor:
                slope = grad(lambda t: (w * self._block_losses(t, rows)).sum())
                return vjp(slope, theta)[1](v)[0]

            # The forward pass does not depend on the vector, so that vmap runs it once for all columns of a block.
            w = weights[places] if shared else weights[places][:, columns]
            out[:, columns] += vmap(product, in_dims=(1, None if shared else 1), out_dims=1)(vectors[:, columns], w)
        return self._finite(out, theta, "Hessian-vector product")

    def hessian(self, theta: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the Hessian of F_w, shape (dim, dim), symmetric to the bit."""
        full = self.hvp(theta, torch.eye(self.dim, dtype=self.dtype, device=self.device), weights)
        return (full + full.T) / 2

    def _checked(self, theta: Tensor) -> Tensor:
        if theta.shape != (self.dim,):
            raise OptionError(f"theta has shape {tuple(theta.shape)}: it must be ({self.dim},)")
        return theta.detach().to(self.device, self.dtype)

    def _unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        parts = theta.split(self._sizes)
        return {name: part.view(shape) for name, part, shape in zip(self._names, parts, self._shapes, strict=True)}

    def _rows(self, rows: Tensor | Sequence[int] | None) -> Tensor:
        return torch.arange(self.n) if rows is None else torch.as_tensor(rows, dtype=torch.long)

    def _weights(self, weights: Tensor | None, columns: bool = False, n: int | None = None) -> Tensor:
        """Return the weights of n rows (all, if not said), shape (n,) or with `columns` (n, k); ones by default."""
        n = self.n if n is None else n
        if weights is None:
            return torch.ones(n, dtype=self.dtype, device=self.device)
        if weights.ndim != 1 + columns or len(weights) != n:
            raise OptionError(f"weights have shape {tuple(weights.shape)}: there must be one for each of {n} rows")
        return weights.detach().to(self.device, self.dtype)

    def _total(self, weights: Tensor) -> Tensor:
        """Return what sums over the data are divided by: the total weight (`mean`) or one (`sum`)."""
        if self.convention == "sum":
            return weights.new_ones(())
        total = weights.sum(dim=0)
        if not bool((total > 0).all()):
            raise OptionError(f"the weights sum to {float(total.min())}: a mean needs a positive total weight")
        return total

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets of some rows on the model's device, floats in its dtype."""
        batch = []
        for data in (self.inputs, self.targets):
            part = data[rows.to(data.device)].to(self.device)
            batch.append(part.to(self.dtype) if part.is_floating_point() else part)
        return batch[0], batch[1]

    def _block_losses(self, theta: Tensor, rows: Tensor) -> Tensor:
        inputs, targets = self._batch(rows)
        losses = self.loss(self.forward(theta, inputs), targets)
        if losses.shape != (len(rows),):
            raise OptionError(
                f"the loss has shape {tuple(losses.shape)} for {len(rows)} examples: it must give one number each "
                '(reduction="none", and a mean over any further dimensions)'
            )
        return losses

    def _one_loss(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.forward(theta, x[None]), y[None])[0]

    def _example_width(self) -> int:
        """Return how many activations one example has (and its input), counted once."""
        if self._width is None:
            counts: list[int] = []

            def count(module: nn.Module, args: object, output: object) -> None:
                if isinstance(output, Tensor):
                    counts.append(output.numel())

            hooks = [module.register_forward_hook(count) for module in self.model.modules()]
            try:
                with torch.no_grad():
                    self.model(self._batch(torch.tensor([0]))[0])
            finally:
                for hook in hooks:
                    hook.remove()
            self._width = sum(counts) + self.inputs[0].numel()
        return self._width

    def _blocks(self, weights: Tensor, columns: int) -> Iterator[tuple[Tensor, slice]]:
        """Yield (places among the weights' rows, columns): blocks that fit the memory budget, without zero rows."""
        used = (weights if weights.ndim == 1 else weights.abs().sum(dim=1)).nonzero()[:, 0].cpu()
        if not len(used):
            return
        height = max(1, min(self.chunk, len(used), _BUDGET // self._example_width()))
        width = max(1, min(_BUDGET // (height * self._example_width()), _BUDGET // self.dim))
        for places in used.split(height):
            for start in range(0, columns, width):
                yield places, slice(start, min(start + width, columns))

    def _finite(self, result: Tensor, theta: Tensor, what: str) -> Tensor:
        """Return the result, or raise which example is at fault where a number of it is not finite."""
        if bool(torch.isfinite(result).all()):
            return result
        self.losses(theta)
        raise DataError(f"the {what} is not finite though every loss is: check the loss's derivatives at theta")


def _check_repeatable(model: nn.Module) -> None:
    """Raise where the model's outputs depend on chance or on the rest of the batch."""
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            raise OptionError(f"{where} normalises by the batch, so that examples depend on each other: call eval()")
        dropout = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
        if module.training and isinstance(dropout, float) and dropout > 0:
            raise OptionError(f"{where} drops activations at random: call eval() on the model")


def _select(model: nn.Module, parameters: str | Sequence[str]) -> list[str]:
    """Return the names of the selected parameters, in the model's order."""
    names = [name for name, _ in model.named_parameters()]
    if parameters == "all":
        chosen = {name for name, value in model.named_parameters() if value.requires_grad}
        if not chosen:
            raise OptionError("no parameter of the model requires a gradient: unfreeze some, or select them by name")
    elif parameters == "last":
        owners = [name.rpartition(".")[0] for name in names]
        if not owners:
            raise OptionError("the model has no parameters")
        chosen = {name for name, owner in zip(names, owners, strict=True) if owner == owners[-1]}
    else:
        chosen = set()
        for wanted in [parameters] if isinstance(parameters, str) else parameters:
            found = {name for name in names if name == wanted or name.startswith(f"{wanted}.")}
            if not found:
                near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.3)
                hint = f"; the nearest are {', '.join(near)}" if near else ""
                raise OptionError(f"the model has no parameter {wanted!r}{hint}")
            chosen |= found
        if not chosen:
            raise OptionError("no parameters are selected: give names, 'all' or 'last'")
    return [name for name in names if name in chosen]
