"""Load a text-to-image pipeline of diffusers: from the hub, a local folder or the zoo; safetensors only."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .assets import find_folder, has_scheme
from .errors import ModelError, OptionError
from .quiet import hush_bitsandbytes, quiet
from .revision import Snapshot, ask_hub, content_hash, is_fixed

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_VARIANT = re.compile(r"\.([a-z]\w*)(-\d+-of-\d+)?\.safetensors")


@dataclass(frozen=True)
class PipelineSpec:
    """Which pipeline, and how to load it. Where it is put does not enter comparisons or a sweep's key.

    Attributes:
        name: `zoo:NAME`, a local folder that `save_pretrained` has written, or a hub id.
        revision: a hub branch, tag or commit; or the content hash of a local folder, which `load_pipeline` then checks.
        dtype: of the weights: "float32", "bfloat16" or "float16", whatever they are saved in.
        variant: which of several sets of weights, such as "fp16".
        safety_checker: keep the pipeline's safety checker, if it has one. It blanks pictures, which changes scores.
        device: where the pipeline goes, such as "cuda"; the processor if nothing says otherwise.

    Raises:
        OptionError: a field has a value that cannot work.
    """

    name: str
    revision: str | None = None
    dtype: str = "float32"
    variant: str | None = None
    safety_checker: bool = True
    device: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise OptionError("the pipeline's name is empty: give zoo:NAME, a folder or a hub id")
        if self.dtype not in DTYPES:
            raise OptionError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")

    def resolved(self) -> "PipelineSpec":
        """This spec with `revision` filled with what identifies the pipeline.

        That is the hub's commit, or a hash over the content of a local folder, whose name becomes absolute.
        A revision that is one of these already is kept, unchecked.

        Raises:
            OptionError: there is no such pipeline, or a folder was given a hub's revision.
            ModelError: it cannot be found or reached.
        """
        if is_fixed(self.revision):
            return self
        folder = _local_folder(self.name)
        if folder is None:
            return replace(self, revision=_find_on_hub(self).commit)
        _check_revision(self, folder)
        name = self.name if has_scheme(self.name) else str(folder.resolve())
        return replace(self, name=name, revision=pipeline_hash(folder))


def load_pipeline(name: str | Path | PipelineSpec, **fields: Any) -> "DiffusionPipeline":
    """Load a text-to-image pipeline: in eval mode, no parameter asking for a gradient, progress bars off.

    Only safetensors weights are read, and no code that comes with a pipeline is run.

    Args:
        name: a `PipelineSpec`, or the `name` of one.
        fields: further fields of the spec; over those of a spec that is given.

    Raises:
        OptionError: a field cannot work, or there is no such pipeline.
        ModelError: the pipeline cannot be found, read or placed, or its weights are incomplete.
    """
    spec = replace(name, **fields) if isinstance(name, PipelineSpec) else PipelineSpec(str(name), **fields)
    folder = _local_folder(spec.name)
    if folder is None:
        folder = _download(spec)
    else:
        _check_revision(spec, folder)
    index = _read_index(folder)
    _check_weights(spec, folder, index)
    pipe = _load(spec, folder, index)
    for part in pipe.components.values():
        if hasattr(part, "requires_grad_"):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline_hash(folder: Path) -> str:
    """`sha256:` and a hash over a pipeline's index and its components' configs, weights and tokenizers."""
    total = hashlib.sha256((folder / "model_index.json").read_bytes())
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        total.update(f"\0{part.name}\0{content_hash(part)}\0".encode())
        for path in sorted(part.glob("*_config.json")):  # of schedulers and picture processors
            total.update(f"{path.name}\0".encode() + path.read_bytes())
    return f"sha256:{total.hexdigest()}"


def _local_folder(name: str) -> Path | None:
    """The local folder that a pipeline's name means, with an index in it; None where the name is a hub id."""
    folder = find_folder(name)
    if folder is not None:
        _read_index(folder)
    return folder


def _check_revision(spec: PipelineSpec, folder: Path) -> None:
    """Of a folder only a content hash can be asked, and then it must be that of what lies there now."""
    if spec.revision is None:
        return
    if not spec.revision.startswith("sha256:"):
        raise OptionError(f"revision {spec.revision!r} is the hub's, and {spec.name} is a folder: leave it out")
    if spec.revision != (found := pipeline_hash(folder)):
        raise ModelError(f"the files of {spec.name} are not those of revision {spec.revision}, but of {found}")


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no model_index.json: give a folder that a pipeline saved itself in")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        kind = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: copy or download the folder again") from error
    if not isinstance(kind, str):
        raise ModelError(f"{folder} comes with its own pipeline code, which is not run: give one of a diffusers class")
    return index


def _check_weights(spec: PipelineSpec, folder: Path, index: dict[str, Any]) -> None:
    """Check that each component's folder is there, and that its weights, if it has any, are safetensors."""
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list) or value[0] is None:
            continue
        if part == "safety_checker" and not spec.safety_checker:
            continue
        if not (folder / part).is_dir():
            raise ModelError(f"{folder} lacks its {part}: copy or download the folder again")
        files = sorted(path.name for path in (folder / part).iterdir())
        safe = [file for file in files if file.endswith(".safetensors")]
        pickles = [file for file in files if file.endswith(_PICKLES)]
        if pickles and not safe:
            convert = (
                f"DiffusionPipeline.from_pretrained({str(folder)!r}, use_safetensors=False).save_pretrained(FOLDER)"
            )
            raise ModelError(
                f"the {part} of {spec.name} has only pickled weights ({pickles[0]}), which can run any code when read. "
                f"If you trust them, convert them once: {convert}"
            )
        variants = {match.group(1) for file in safe if (match := _VARIANT.search(file))}
        if spec.variant is None and variants and all(_VARIANT.search(file) for file in safe):
            raise ModelError(f"{spec.name} has only weights of a variant: give variant={min(variants)!r}")


def _load(spec: PipelineSpec, folder: Path, index: dict[str, Any]) -> Any:
    import torch

    options: dict[str, Any] = {} if spec.variant is None else {"variant": spec.variant}
    if not spec.safety_checker and "safety_checker" in index:
        options |= {"safety_checker": None, "requires_safety_checker": False}
    kind = _pipeline_class()
    try:
        with _hushed() as complaints:
            pipe = kind.from_pretrained(
                folder, dtype=getattr(torch, spec.dtype), use_safetensors=True, local_files_only=True, **options
            )
    except Exception as error:  # diffusers and transformers raise a dozen classes for what is wrong with a checkpoint
        raise ModelError(f"{spec.name} cannot be loaded: {_first_line(error)}") from error
    if complaints:
        raise ModelError(f"the weights of {spec.name} are incomplete ({complaints[0]}): get the pipeline again")
    if spec.device is None:
        return pipe
    try:
        return pipe.to(spec.device)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise OptionError(f"device {spec.device!r} cannot be used here: {_first_line(error)}") from error


def _pipeline_class() -> Any:
    hush_bitsandbytes()
    from diffusers import DiffusionPipeline

    return DiffusionPipeline


@contextmanager
def _hushed() -> Iterator[list[str]]:
    """No progress bars; yields what diffusers and transformers say about weights that were not in the files."""
    from diffusers.utils import logging as chatter

    complaints: list[str] = []

    def listen(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        lines = [line.strip() for line in text.splitlines() if "newly initialized" in line or "MISSING" in line]
        complaints.extend(lines[:1])
        return not lines

    bars = chatter.is_progress_bar_enabled()
    chatter.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in ("transformers.modeling_utils", "diffusers.models.modeling_utils")]
    for logger in loggers:
        logger.addFilter(listen)
    try:
        with quiet():
            yield complaints
    finally:
        for logger in loggers:
            logger.removeFilter(listen)
        if bars:
            chatter.enable_progress_bar()


def _download(spec: PipelineSpec) -> Path:
    snapshot = _find_on_hub(spec)
    if snapshot.folder is not None:
        return snapshot.folder
    options = {} if spec.variant is None else {"variant": spec.variant}
    kind = _pipeline_class()
    try:
        with _hushed():
            return Path(kind.download(spec.name, revision=snapshot.commit, use_safetensors=True, **options))
    except Exception as error:  # the hub's classes, and diffusers' own for a repository without safetensors
        raise ModelError(f"{spec.name} cannot be downloaded: {_first_line(error)}") from error


def _find_on_hub(spec: PipelineSpec) -> Snapshot:
    snapshot, files = ask_hub(spec.name, spec.revision, "zoo:tinyworld-sd")
    if snapshot.folder is None and "model_index.json" not in files:
        raise ModelError(f"{spec.name} on the hub has no model_index.json: give the id of a diffusers pipeline")
    return snapshot


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
