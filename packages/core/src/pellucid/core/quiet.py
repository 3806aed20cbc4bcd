"""Silence for what other libraries print on an ordinary load, and for nothing else."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from .errors import ModelError

_REPORTING = ("transformers.modeling_utils", "accelerate.big_modeling")


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block there are no progress bars of transformers and the hub, and no reports on keys and placement.

    Other warnings come through. Whoever loads a model in such a block must look at the keys himself.
    """
    from huggingface_hub import utils as hub
    from transformers.utils import logging as chatter

    bars, hub_bars = chatter.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    chatter.disable_progress_bar()
    hub.disable_progress_bars()
    for name in _REPORTING:
        logging.getLogger(name).addFilter(_not_a_report)
    try:
        yield
    finally:
        for name in _REPORTING:
            logging.getLogger(name).removeFilter(_not_a_report)
        if bars:
            chatter.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()


def hush_bitsandbytes() -> None:
    """Keep two remarks of bitsandbytes back, whoever imports it: on a kernel that is not installed, on int8's inputs.

    Diffusers imports it wherever it is installed. Its int8 layers compute in float16 whatever they are given, and say
    so at each call.
    """
    # Loggers exist before the modules that use them, and a filter that is already there is not added twice.
    for name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
        logging.getLogger(name).addFilter(_not_a_remark)


def import_bitsandbytes() -> ModuleType:
    """Import bitsandbytes, hushed.

    Raises:
        ModelError: it is not installed.
    """
    hush_bitsandbytes()
    try:
        import bitsandbytes
    except ImportError as error:
        raise ModelError(
            f"quantized loading needs bitsandbytes ({error}): pip install pellucid-core[quantize]"
        ) from error
    return bitsandbytes


def _not_a_report(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "LOAD REPORT" not in text and not text.startswith("Some parameters are on the meta device")


def _not_a_remark(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("Failed to load CPU gemm", "MatMul8bitLt: inputs will be cast"))
