"""Scorers: how well pictures fit captions, by CLIP-Score or by whatever an installed package offers."""

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.assets import find_model
from pellucid.core.errors import DataError, ModelError, OptionError, PellucidError
from pellucid.core.quiet import quiet
from pellucid.core.revision import find_on_hub
from torch.nn.functional import normalize

Pictures: TypeAlias = NDArray[np.uint8]
"""(n, h, w, 3), from 0 to 255."""

Scorer: TypeAlias = Callable[[Pictures, Sequence[str]], NDArray[np.float64]]
"""From pictures and one caption for each to one score for each, higher where the picture fits better."""

GROUP = "pellucid.scorers"
BATCH = 32  # pictures or captions in one forward pass


def load_scorer(name: str, *, device: str = "cpu") -> Scorer:
    """Return a scorer by its name.

    Args:
        name: `clip:MODEL`, where MODEL is a folder, `zoo:NAME` or a hub id; or `NAME` or `NAME:REST` as an installed
            package offers it by an entry point in the group `pellucid.scorers`: a function from REST (empty where
            there is none) to a scorer.
        device: where CLIP runs; a package's own scorer chooses for itself.

    Raises:
        OptionError: nothing installed offers the name, or `clip:` names no model.
        ModelError: the model or the package cannot be loaded.
    """
    kind, _, rest = name.partition(":")
    if kind == "clip":
        if not rest:
            raise OptionError(f"the scorer {name!r} names no model: write clip:MODEL, such as clip:FOLDER")
        return clip_scorer(rest, device=device)
    offered = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if kind not in offered:
        known = ", ".join(["clip:MODEL", *sorted(offered)])
        raise OptionError(f"nothing installed offers the scorer {name!r}: choose from {known}")
    try:
        make = offered[kind].load()
    except ImportError as error:
        raise ModelError(
            f"the package behind the scorer {kind!r} cannot be imported ({error}): reinstall it"
        ) from error
    scorer: Scorer = make(rest)
    return scorer


def clip_scorer(model: str | Path, *, device: str = "cpu") -> Scorer:
    """Return the CLIP-Score: the cosine of a picture's and its caption's embeddings.

    It is not scaled (CLIP-Score's authors multiply by 2.5 and cut at 0), as in the thesis (section 5.2.5), whose
    values lie between 0.2 and 0.3. Pictures go through the model's own image processor; captions longer than the
    model reads are cut.

    Args:
        model: of transformers' `CLIPModel`, with its tokenizer and image processor: a folder, `zoo:NAME` or a hub id.
        device: where it runs.

    Raises:
        OptionError: there is no such model, or the device cannot be used.
        ModelError: the model is no CLIP, or cannot be found or read.
    """
    clip, tokenizer, processor = _load_clip(str(model), device)

    @torch.inference_mode()
    def score(pictures: Pictures, captions: Sequence[str]) -> NDArray[np.float64]:
        check_pictures(pictures, captions)
        if not len(pictures):
            return np.zeros(0)
        unique = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        said = torch.cat([_said(part) for part in _batches(list(unique))])
        seen = torch.cat([_seen(part) for part in _batches(pictures)])
        cosines = (seen * said[[unique[caption] for caption in captions]]).sum(1)
        found = cosines.cpu().numpy()
        if not np.isfinite(found).all():
            raise ModelError(f"{model} gives scores that are not finite: its weights or config are broken")
        return found

    def _said(captions: list[str]) -> torch.Tensor:
        length = clip.config.text_config.max_position_embeddings
        tokens = tokenizer(captions, padding=True, truncation=True, max_length=length, return_tensors="pt")
        return normalize(clip.get_text_features(**tokens.to(device)).pooler_output.double())

    def _seen(pictures: Pictures) -> torch.Tensor:
        shown = processor(images=list(pictures), return_tensors="pt", input_data_format="channels_last")
        return normalize(clip.get_image_features(pixel_values=shown["pixel_values"].to(device)).pooler_output.double())

    return score


def check_pictures(pictures: Pictures, captions: Sequence[str] | None = None) -> None:
    """Check that pictures are what a scorer takes, with a caption for each.

    Raises:
        DataError: they are not (n, h, w, 3) bytes, or captions are of another number.
    """
    if not isinstance(pictures, np.ndarray) or pictures.dtype != np.uint8 or pictures.shape[3:] != (3,):
        found = f"{pictures.dtype} of shape {pictures.shape}" if isinstance(pictures, np.ndarray) else type(pictures)
        raise DataError(f"pictures are {found}: give uint8 of shape (n, height, width, 3)")
    if captions is not None and (isinstance(captions, str) or len(captions) != len(pictures)):
        count = "one text" if isinstance(captions, str) else len(captions)
        raise DataError(f"there are {len(pictures)} pictures and {count} for captions: give one caption a picture")


def _batches(items: Any) -> list[Any]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def _load_clip(name: str, device: str) -> tuple[Any, Any, Any]:
    """The model in eval mode on its device, its tokenizer, and its image processor."""
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    folder, source = find_model(name), {}
    if folder is None:
        snapshot = find_on_hub(name, None)
        folder, source = snapshot.folder, {"revision": snapshot.commit}
    where = name if folder is None else str(folder)
    try:
        with quiet():
            model, keys = CLIPModel.from_pretrained(where, use_safetensors=True, output_loading_info=True, **source)
            tokenizer = AutoTokenizer.from_pretrained(where, **source)
            processor = AutoImageProcessor.from_pretrained(where, **source)
    except PellucidError:
        raise
    except Exception as error:  # transformers raises a dozen classes for what is wrong with a checkpoint
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{name} cannot be loaded as a CLIP ({line}): it needs a CLIPModel's config and weights, its tokenizer "
            "and its image processor in one folder"
        ) from error
    if missing := sorted(keys["missing_keys"]):
        raise ModelError(f"{name} lacks {len(missing)} of a CLIPModel's weights, such as {missing[0]}: give a CLIP")
    try:
        return model.eval().requires_grad_(False).to(device), tokenizer, processor
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0]
        raise OptionError(f"device {device!r} cannot be used here: {line}") from error
