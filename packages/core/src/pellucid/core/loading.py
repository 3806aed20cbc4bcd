"""Load a causal language model and its tokenizer: from the hub, a local folder or the zoo, where and as it fits."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .assets import find_model, resolve_asset
from .errors import ModelError, OptionError
from .fitting import check_fits
from .quiet import import_bitsandbytes, quiet
from .revision import content_hash, find_on_hub, is_fixed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Loaded", "ModelSpec", "Place", "first_line", "load", "locate", "read_model", "resolve_asset"]

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16", "auto")
QUANTIZATIONS = ("nf4", "int8")


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how to load it. What says only where it is put does not enter comparisons or a sweep's key.

    Attributes:
        name: `zoo:NAME`, a local folder, or a hub id.
        revision: a hub branch, tag or commit; or the content hash of a local folder, which `load` then checks.
        dtype: of the weights; "auto" takes the one they are saved in.
        quantize: "nf4" (4 bits) or "int8" through bitsandbytes.
        trust_remote_code: run the code that comes with the model.
        device: where the whole model goes, such as "cuda:1"; the processor if nothing says otherwise.
        device_map: how the model is spread over devices: "auto", or modules to devices ("disk" is one).
        max_memory: what each device may take, such as `{0: "20GB", "cpu": "300MB"}`; what is left over stays
            on disk and is read when needed. Implies `device_map="auto"`.
        offload_folder: where weights on disk are written if they cannot be read from the checkpoint as it is.

    Raises:
        OptionError: a field has a value that cannot work, or two do not go together.
    """

    name: str
    revision: str | None = None
    dtype: str = "float32"
    quantize: Literal["nf4", "int8"] | None = None
    trust_remote_code: bool = False
    device: str | None = field(default=None, compare=False)
    device_map: str | dict[str, Any] | None = field(default=None, compare=False)
    max_memory: dict[int | str, int | str] | None = field(default=None, compare=False)
    offload_folder: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise OptionError("the model's name is empty: give zoo:NAME, a folder or a hub id")
        if self.dtype not in DTYPES:
            raise OptionError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.quantize is not None and self.quantize not in QUANTIZATIONS:
            raise OptionError(f"quantize {self.quantize!r} is not one of {', '.join(QUANTIZATIONS)}")
        if self.device is not None and (self.device_map is not None or self.max_memory is not None):
            raise OptionError(
                f"device {self.device!r} puts the whole model in one place: leave it out with device_map or max_memory"
            )

    def resolved(self) -> "ModelSpec":
        """This spec with `revision` filled with what identifies the weights.

        That is the hub's commit, or a hash over the content of a local folder, whose name becomes absolute.
        A revision that is one of these already is kept, unchecked.

        Raises:
            OptionError: there is no such model, or a folder was given a hub's revision.
            ModelError: it cannot be found or reached.
        """
        if is_fixed(self.revision):
            return self
        folder = find_model(self.name)
        if folder is None:
            return replace(self, revision=find_on_hub(self.name, self.revision).commit)
        _check_revision(self, folder)
        name = self.name if ":" in self.name else str(folder.resolve())
        return replace(self, name=name, revision=content_hash(folder))


@dataclass(frozen=True)
class Loaded:
    """A model ready to be looked into.

    Attributes:
        model: in eval mode, no parameter asking for a gradient.
        tokenizer: padding on the left, with a padding token.
        spec: as asked for; of a hub model with the commit that was loaded.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    spec: ModelSpec


def load(name: str | Path | ModelSpec, **fields: Any) -> Loaded:
    """Load a causal language model and its tokenizer.

    Only safetensors weights are read, and no code that comes with a model is run unless the spec says so.

    Args:
        name: a `ModelSpec`, or the `name` of one.
        fields: further fields of the spec; over those of a spec that is given.

    Raises:
        OptionError: a field cannot work, or there is no such model.
        ModelError: the model cannot be found, read or placed, or its weights are incomplete.
    """
    place = locate(name, **fields)
    return Loaded(read_model("AutoModelForCausalLM", place), _tokenizer(place), place.spec)


@dataclass(frozen=True)
class Place:
    """Where a model's files are read from.

    Attributes:
        spec: as asked for; of a hub model with the commit that is there.
        where: a folder, or the hub id.
        source: `from_pretrained`'s arguments that go with it.
    """

    spec: ModelSpec
    where: str
    source: dict[str, Any]


def locate(name: str | Path | ModelSpec, **fields: Any) -> Place:
    """Find a model's files, and check its revision; arguments and errors are those of `load`."""
    spec = replace(name, **fields) if isinstance(name, ModelSpec) else ModelSpec(str(name), **fields)
    folder = find_model(spec.name)
    if folder is None:
        snapshot = find_on_hub(spec.name, spec.revision)
        spec, folder = replace(spec, revision=snapshot.commit), snapshot.folder
    else:
        _check_revision(spec, folder)
    where = spec.name if folder is None else str(folder)
    return Place(spec, where, {"revision": spec.revision} if folder is None else {"local_files_only": True})


def _check_revision(spec: ModelSpec, folder: Path) -> None:
    """Of a folder only a content hash can be asked, and then it must be that of what lies there now."""
    if spec.revision is None:
        return
    if not spec.revision.startswith("sha256:"):
        raise OptionError(f"revision {spec.revision!r} is the hub's, and {spec.name} is a folder: leave it out")
    if spec.revision != (found := content_hash(folder)):
        raise ModelError(f"the weights of {spec.name} are not those of revision {spec.revision}, but of {found}")


def read_model(auto_class: str, place: Place) -> "PreTrainedModel":
    """Read a model by one of transformers' Auto classes, in eval mode; errors are those of `load`."""
    import transformers

    spec = place.spec
    options = _placement(spec) | _quantization(spec)
    if Path(place.where).is_dir():
        check_fits(spec, Path(place.where))
    try:
        with quiet():
            found: Any = getattr(transformers, auto_class).from_pretrained(
                place.where,
                dtype=spec.dtype,
                use_safetensors=True,
                trust_remote_code=spec.trust_remote_code,
                # Both are errors here, in one line (below); transformers would print a table.
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
                **place.source,
            )
    except Exception as error:  # transformers raises a dozen classes for what is wrong with a checkpoint
        raise _explained(spec, error) from error
    model, keys = found
    _check_keys(spec, keys)
    if spec.quantize == "nf4":
        _keep_plain_layout(model)
    return model.eval().requires_grad_(False)


def _placement(spec: ModelSpec) -> dict[str, Any]:
    """`from_pretrained`'s arguments for where the model goes."""
    if spec.device_map is None and spec.max_memory is None:
        device = spec.device or "cpu"
        _check_device(device)
        return {"device_map": {"": device}}
    options: dict[str, Any] = {"device_map": spec.device_map if spec.device_map is not None else "auto"}
    if spec.max_memory is not None:
        options["max_memory"] = _bytes(spec.max_memory)
    if spec.offload_folder is not None:
        options["offload_folder"] = str(Path(spec.offload_folder).expanduser())
    return options


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"device {device!r} cannot be used here: {first_line(error)}") from error


def _bytes(max_memory: dict[int | str, int | str]) -> dict[int | str, int]:
    """Sizes in bytes; a device's number may come as text, as from a JSON option."""
    from accelerate.utils import convert_file_size_to_int

    sizes: dict[int | str, int] = {}
    for device, size in max_memory.items():
        try:
            key = int(device) if isinstance(device, str) and device.isdigit() else device
            sizes[key] = convert_file_size_to_int(size)
        except ValueError as error:
            raise OptionError(
                f'max_memory of {device!r} is {size!r}: write a number of bytes or, say, "20GB"'
            ) from error
    return sizes


def _quantization(spec: ModelSpec) -> dict[str, Any]:
    if spec.quantize is None:
        return {}
    import_bitsandbytes()
    import torch
    from transformers import BitsAndBytesConfig

    if spec.quantize == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    compute = torch.bfloat16 if spec.dtype == "auto" else getattr(torch, spec.dtype)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    return {"quantization_config": config}


def _keep_plain_layout(model: "PreTrainedModel") -> None:
    """Keep bitsandbytes' 4-bit layers readable and differentiable on processors with AVX512-BF16.

    There, the first forward pass in eval mode would repack the weights for a bfloat16 kernel: from then on
    `dequantize_4bit` reads nonsense from them, no gradient passes the layer, and layers whose sizes are not
    multiples of 32 and 64 raise.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _check_keys(spec: ModelSpec, keys: dict[str, Any]) -> None:
    if missing := sorted(keys["missing_keys"]):
        raise ModelError(
            f"the weights of {spec.name} are incomplete: {len(missing)} are missing, such as {', '.join(missing[:3])}; "
            "get the checkpoint again"
        )
    if wrong := sorted(keys["mismatched_keys"]):
        name, saved, expected = wrong[0]
        raise ModelError(
            f"{len(wrong)} weights of {spec.name} do not have the shape that its config says, such as {name}: "
            f"{tuple(saved)} instead of {tuple(expected)}; get config and weights from one place"
        )
    if unexpected := sorted(keys["unexpected_keys"]):
        log.warning("%s: %d weights have no place in the model, such as %s", spec.name, len(unexpected), unexpected[0])


def _tokenizer(place: Place) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    trust = place.spec.trust_remote_code
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(place.where, trust_remote_code=trust, **place.source)
    except Exception as error:
        raise ModelError(
            f"{place.spec.name} has no tokenizer that can be loaded ({first_line(error)}): "
            "save one beside the model with tokenizer.save_pretrained"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def _explained(spec: ModelSpec, error: Exception) -> ModelError:
    """One line for what `from_pretrained` raised."""
    text = str(error)
    if "dispatched on the CPU or the disk" in text:
        return ModelError(
            f"{spec.name} does not fit as {spec.quantize}, and quantized weights cannot be left on the processor or "
            "disk beside a device (bitsandbytes #1411): allow more memory, or leave quantize out"
        )
    if "offload_folder" in text:
        return ModelError(f"part of {spec.name} must be written to disk: give offload_folder")
    if "trust_remote_code" in text:
        return ModelError(f"{spec.name} comes with its own code: read it, then pass trust_remote_code=True")
    return ModelError(f"{spec.name} cannot be loaded: {first_line(error)}")


def first_line(error: Exception) -> str:
    """The first line of an error's text that says something, or its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
