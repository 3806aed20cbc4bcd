"""What a training leaves: a projection, new weights of text encoders, or both; on a pipeline, and on disk."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import write_file
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .attach import SWITCH_OFF, attach
from .projection import WEIGHTS, TextProjection, load_projection

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ENCODERS = "text_encoders.safetensors"


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of one of the methods of thesis 9.2.4 and 9.2.8.

    Attributes:
        projection: of CLP and WiCLP, None where only text encoders were trained.
        encoders: new weights, by component and name, such as "text_encoder.encoder.layers.1.mlp.fc1.weight".
        losses: of each step; empty for what was read from disk.
        seconds: that the training took.
    """

    projection: TextProjection | None
    encoders: Mapping[str, Tensor] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    seconds: float = 0.0

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        maps = [] if self.projection is None else list(self.projection.parameters())
        return sum(weight.numel() for weight in [*maps, *self.encoders.values()])

    @contextmanager
    def applied(
        self, pipe: "DiffusionPipeline", switch_off: float = SWITCH_OFF, tokens: Tensor | None = None
    ) -> Iterator[None]:
        """Use it while the block runs; afterwards the pipeline is as before, to the bit.

        SWITCH-OFF and the choice of tokens are the projection's (see `attach`): new weights of text encoders work at
        all times and on all tokens, and on the unconditional prompt too.

        Raises:
            OptionError: it was trained for another pipeline.
        """
        with self.encoding(pipe):
            if self.projection is None:
                yield
                return
            with attach(pipe, self.projection, switch_off, tokens):
                yield

    @contextmanager
    def encoding(self, pipe: "DiffusionPipeline") -> Iterator[None]:
        """Use the text encoders' new weights, if there are any, while the block runs.

        Raises:
            OptionError: they were trained for another pipeline.
        """
        held = _weights_of(pipe, self.encoders)
        with borrowed(held):
            for name, weight in held.items():
                weight.data.copy_(self.encoders[name])
            yield

    def save(self, folder: str | Path) -> Path:
        """Write the projection (see `TextProjection.save`) and `text_encoders.safetensors`, each if there is one.

        Raises:
            DataError: the folder cannot be written.
        """
        folder = Path(folder)
        if self.projection is not None:
            self.projection.save(folder)
        if self.encoders:
            weights = {name: weight.detach().cpu().contiguous() for name, weight in self.encoders.items()}
            write_file(folder / ENCODERS, to_bytes(weights, {"format": "pt"}))
        return folder


def load_trained(folder: str | Path) -> Trained:
    """Read what `Trained.save` or `TextProjection.save` wrote.

    Raises:
        DataError: the folder holds neither, or what it holds is damaged.
    """
    folder = Path(folder)
    encoders = folder / ENCODERS
    if not encoders.is_file():
        return Trained(load_projection(folder))
    try:
        weights = from_bytes(encoders.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{encoders} cannot be read ({error}): train again") from error
    return Trained(load_projection(folder) if (folder / WEIGHTS).is_file() else None, weights)


@contextmanager
def borrowed(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Let parameters be changed in place while the block runs; afterwards the old tensors themselves are back."""
    old = {name: part.data for name, part in parameters.items()}
    try:
        for name, part in parameters.items():
            part.data = old[name].clone()
        yield
    finally:
        for name, part in parameters.items():
            part.data, part.grad = old[name], None


@contextmanager
def frozen(pipe: "DiffusionPipeline") -> Iterator[None]:
    """All of a pipeline's models in eval mode and no parameter asking for a gradient, for the length of the block."""
    models = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    modes = [(module, module.training) for model in models for module in model.modules()]
    asked = [(part, part.requires_grad) for model in models for part in model.parameters()]
    try:
        for model in models:
            model.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for part, wanted in asked:
            part.requires_grad_(wanted)


def _weights_of(pipe: "DiffusionPipeline", names: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """A pipeline's own parameters of these names and shapes."""
    found: dict[str, nn.Parameter] = {}
    for name, weight in names.items():
        component, _, rest = name.partition(".")
        model: Any = getattr(pipe, component, None)
        held = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
        if rest not in held or held[rest].shape != weight.shape:
            raise OptionError(
                f"{type(pipe).__name__} has no weight {name} of shape {tuple(weight.shape)}: the text encoders were "
                "trained for another pipeline"
            )
        found[name] = held[rest]
    return found
