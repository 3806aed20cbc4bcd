"""Load a multimodal language model, which answers questions about pictures, with its processor."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelError
from .loading import ModelSpec, Place, first_line, locate, read_model
from .quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

__all__ = ["LoadedMultimodal", "load_multimodal"]


@dataclass(frozen=True)
class LoadedMultimodal:
    """A multimodal model ready to be looked into.

    Attributes:
        model: a `...ForConditionalGeneration` in eval mode, no parameter asking for a gradient.
        processor: its processor: a tokenizer, padding on the left and with a padding token, and an image processor.
        spec: as asked for; of a hub model with the commit that was loaded.
    """

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    spec: ModelSpec


def load_multimodal(name: str | Path | ModelSpec, **fields: Any) -> LoadedMultimodal:
    """Load a multimodal language model: LLaVA, Qwen2-VL, Idefics3, SmolVLM, and what else transformers knows.

    Only safetensors weights are read, and no code that comes with a model is run unless the spec says so.

    Args:
        name: a `ModelSpec`, or the `name` of one: `zoo:NAME`, a local folder or a hub id.
        fields: further fields of the spec; over those of a spec that is given.

    Raises:
        OptionError: a field cannot work, or there is no such model.
        ModelError: the model cannot be found, read or placed, its weights are incomplete, or it reads no pictures.
    """
    place = locate(name, **fields)
    _check_kind(place)
    return LoadedMultimodal(read_model("AutoModelForImageTextToText", place), _processor(place), place.spec)


def _check_kind(place: Place) -> None:
    """Refuse models of other kinds before their weights are read, in words of their own."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    file = Path(place.where) / "config.json"
    try:
        if file.exists():
            config = json.loads(file.read_text("utf-8"))
        else:
            trust = place.spec.trust_remote_code
            with quiet():
                found = AutoConfig.from_pretrained(place.where, trust_remote_code=trust, **place.source)
            config = found.to_dict()
    except Exception as error:  # transformers raises a dozen classes for what is wrong with a config
        raise ModelError(f"{place.spec.name} has no config that can be read: {first_line(error)}") from error
    kind = config.get("model_type")
    if kind not in KNOWN and "AutoModelForImageTextToText" not in config.get("auto_map", {}):
        raise ModelError(
            f"{place.spec.name} ({kind or 'no model_type'}) is no multimodal language model that transformers can "
            "load: give one that reads pictures, such as a LLaVA or a Qwen2-VL"
        )


def _processor(place: Place) -> "ProcessorMixin":
    from transformers import AutoProcessor

    name = place.spec.name
    try:
        with quiet():
            processor: Any = AutoProcessor.from_pretrained(
                place.where, trust_remote_code=place.spec.trust_remote_code, **place.source
            )
    except Exception as error:
        raise ModelError(
            f"{name} has no processor that can be loaded ({first_line(error)}): "
            "save one beside the model with processor.save_pretrained"
        ) from error
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(processor, "image_processor", None) is None:
        what = "tokenizer" if tokenizer is None else "image processor"
        raise ModelError(f"the processor of {name} has no {what}: save a whole one beside the model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return processor
