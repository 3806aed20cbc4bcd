"""CLIP models of transformers and of open_clip behind one small face: embed, train, save as they were."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from .assets import find_folder, find_model
from .errors import DataError, ModelError, OptionError, PellucidError
from .outfolder import writing
from .quiet import quiet
from .revision import find_on_hub
from .sweeps import digest

if TYPE_CHECKING:
    from PIL.Image import Image

_NORMS = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_SHOWN = ("mean", "std", "interpolation", "resize_mode")  # what open_clip keeps of a picture's preparation
_UNUSED = "text_decoder."  # CoCa's captioning half, which matching never runs


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP ready to be asked or trained.

    Attributes:
        name: as it was asked for.
        model: the library's own model, in eval mode, float32, no parameter asking for a gradient.
        width: of the embeddings that pictures and texts share.
        prepare: pictures to a tensor (n, 3, height, width), resized and normalised as the model wants it.
        tokenize: texts to token ids (n, length), cut to what the model reads.
        image_features: prepared pictures to embeddings (n, width), not normalised, differentiable.
        text_features: token ids to embeddings (n, width), likewise.
        write: saves the model into a folder, as its library does.
    """

    name: str
    model: nn.Module
    width: int
    prepare: Callable[[Sequence["Image"]], Tensor]
    tokenize: Callable[[Sequence[str]], Tensor]
    image_features: Callable[[Tensor], Tensor]
    text_features: Callable[[Tensor], Tensor]
    write: Callable[[Path], None]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of what cosines are multiplied with in the contrastive loss."""
        found: Any = self.model.logit_scale
        return found

    @property
    def revision(self) -> str:
        """`sha256:` and a hash of the weights as they are."""
        return f"sha256:{digest([type(self.model).__name__, dict(self.model.state_dict())])}"

    def norms(self) -> dict[str, nn.Parameter]:
        """Weights and biases of the normalisations of both encoders, by name: what SDS-CLIP trains (section 9.1.4).

        These are all LayerNorms; in the image encoder of a ResNet they are its BatchNorms, which has no LayerNorm.
        """
        return {
            f"{name}.{part}": weight
            for name, module in self.model.named_modules()
            if isinstance(module, _NORMS) and not name.startswith(_UNUSED)
            for part, weight in module.named_parameters(recurse=False)
        }

    def all_weights(self) -> dict[str, nn.Parameter]:
        """All parameters that matching uses, by name: what full fine-tuning trains."""
        return {name: weight for name, weight in self.model.named_parameters() if not name.startswith(_UNUSED)}

    def save(self, folder: str | Path) -> None:
        """Save the model as a plain CLIP, which its own library and `load_clip` read again.

        Raises:
            DataError: the folder cannot be written.
        """
        place = Path(folder)
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
            with quiet():
                self.write(place)


def load_clip(name: str | Path, device: str = "cpu") -> Clip:
    """Load a CLIP.

    Args:
        name: `open_clip:ARCHITECTURE/PRETRAINED`, `open_clip:FOLDER` (or `open_clip:zoo:NAME`) for a model of
            open_clip, CoCa's among them; else `zoo:NAME`, a folder or a hub id of a `CLIPModel` of transformers.
        device: where it goes, such as "cuda".

    Raises:
        OptionError: the name is empty, there is no such model, or the device cannot be used.
        ModelError: a library is not installed, or the model cannot be read or is no CLIP.
    """
    name = str(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {device!r} cannot be used here: give cpu, or one there is") from error
    source, _, rest = name.partition(":")
    if not name or (source == "open_clip" and not rest):
        raise OptionError(
            f"{name!r} names no CLIP: give open_clip:ARCHITECTURE/PRETRAINED, zoo:NAME, a folder or hub id"
        )
    try:
        with quiet():
            return _open_clip(name, rest, device) if source == "open_clip" else _transformers(name, device)
    except PellucidError:
        raise
    except ImportError as error:
        raise ModelError(f"{name} needs {error.name}: pip install open_clip_torch") from error
    except Exception as error:  # the libraries raise a dozen classes for what is wrong with a checkpoint
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"{name} cannot be loaded as a CLIP: {line}") from error


def transformers_clip(name: str, model: Any, tokenizer: Any, processor: Any) -> Clip:
    """The face of a `CLIPModel` of transformers, with its tokenizer and image processor."""
    length = model.config.text_config.max_position_embeddings
    device = next(model.parameters()).device

    def prepare(pictures: Sequence["Image"]) -> Tensor:
        shown = [picture.convert("RGB") for picture in pictures]
        found: Tensor = processor(images=shown, return_tensors="pt").pixel_values
        return found

    def tokenize(texts: Sequence[str]) -> Tensor:
        # Text encoders are causal and read the end's place: what pads behind it needs no mask.
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        found: Tensor = tokenizer(list(texts), return_tensors="pt", **options).input_ids
        return found

    def see(pixels: Tensor) -> Tensor:
        found: Tensor = model.get_image_features(pixel_values=pixels.to(device)).pooler_output
        return found

    def read(tokens: Tensor) -> Tensor:
        found: Tensor = model.get_text_features(input_ids=tokens.to(device)).pooler_output
        return found

    def write(folder: Path) -> None:
        for part in (model, tokenizer, processor):
            part.save_pretrained(folder)

    model.eval().requires_grad_(False)
    return Clip(name, model, model.config.projection_dim, prepare, tokenize, see, read, write)


def open_clip_clip(name: str, model: Any, tokenizer: Any, transform: Callable[[Any], Tensor], config: Any) -> Clip:
    """The face of an open_clip model.

    Args:
        name: as it was asked for.
        model: `CLIP`, `CustomTextCLIP` or `CoCa`.
        tokenizer: what `open_clip.get_tokenizer` gives.
        transform: of one picture, for evaluation.
        config: the model's `model_cfg`, which is saved beside its weights.
    """
    device = next(model.parameters()).device

    def prepare(pictures: Sequence["Image"]) -> Tensor:
        return torch.stack([transform(picture.convert("RGB")) for picture in pictures])

    def see(pixels: Tensor) -> Tensor:
        found: Tensor = model.encode_image(pixels.to(device), normalize=False)
        return found

    def read(tokens: Tensor) -> Tensor:
        found: Tensor = model.encode_text(tokens.to(device), normalize=False)
        return found

    def tokenize(texts: Sequence[str]) -> Tensor:
        found: Tensor = tokenizer(list(texts))
        return found

    def write(folder: Path) -> None:
        import open_clip
        from safetensors.torch import save_file

        weights = {key: part.detach().cpu().clone().contiguous() for key, part in model.state_dict().items()}
        save_file(weights, folder / "open_clip_model.safetensors", {"format": "pt"})
        shown = {key: value for key, value in open_clip.get_model_preprocess_cfg(model).items() if key in _SHOWN}
        about = {"model_cfg": config, "preprocess_cfg": shown}
        (folder / "open_clip_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if hasattr(tokenizer, "save_pretrained"):  # of transformers; open_clip's own needs no files
            tokenizer.save_pretrained(folder)

    model.eval().requires_grad_(False)
    return Clip(name, model, config["embed_dim"], prepare, tokenize, see, read, write)


@torch.inference_mode()
def embed_images(clip: Clip, images: Sequence["Image"], batch: int = 64) -> Tensor:
    """Unit embeddings of pictures, (n, width) float64 on the CPU.

    Raises:
        ModelError: the model gives values that are not finite.
    """
    parts = [clip.image_features(clip.prepare(images[at : at + batch])) for at in range(0, len(images), batch)]
    return _unit(clip, parts)


@torch.inference_mode()
def embed_texts(clip: Clip, texts: Sequence[str], batch: int = 256) -> Tensor:
    """Unit embeddings of texts, (n, width) float64 on the CPU.

    Raises:
        ModelError: the model gives values that are not finite.
    """
    parts = [clip.text_features(clip.tokenize(texts[at : at + batch])) for at in range(0, len(texts), batch)]
    return _unit(clip, parts)


def clip_scores(clip: Clip, images: Sequence["Image"], captions: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Cosines of every picture with each of its captions, (pictures, captions) float64.

    Args:
        clip: the model.
        images: the pictures.
        captions: equally many for each.

    Raises:
        DataError: captions do not pair up with pictures, or are not equally many.
    """
    if len(images) != len(captions) or len({len(texts) for texts in captions}) > 1:
        raise DataError(
            f"there are {len(images)} pictures and {len(captions)} lists of captions: give one, as long, each"
        )
    if not images:
        return np.zeros((0, 0))
    unique = {text: row for row, text in enumerate(dict.fromkeys(text for texts in captions for text in texts))}
    seen, said = embed_images(clip, images), embed_texts(clip, list(unique))
    rows = torch.tensor([[unique[text] for text in texts] for texts in captions])
    found: NDArray[np.float64] = torch.einsum("nw,ncw->nc", seen, said[rows]).numpy()
    return found


def _transformers(name: str, device: str) -> Clip:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    folder, source = find_model(name), {}
    if folder is None:
        snapshot = find_on_hub(name, None)
        folder, source = snapshot.folder, {"revision": snapshot.commit}
    where = str(folder or name)
    model, keys = CLIPModel.from_pretrained(
        where, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **source
    )
    if missing := sorted(keys["missing_keys"]):
        raise ModelError(f"{name} lacks {len(missing)} of a CLIPModel's weights, such as {missing[0]}: give a CLIP")
    tokenizer = AutoTokenizer.from_pretrained(where, **source)
    processor = AutoImageProcessor.from_pretrained(where, **source)
    return transformers_clip(name, model.to(device), tokenizer, processor)


def _open_clip(name: str, rest: str, device: str) -> Clip:
    import open_clip

    if rest.startswith("hf-hub:"):
        architecture, pretrained = rest, ""
    elif rest.startswith("zoo:") or Path(rest).expanduser().is_dir():
        architecture, pretrained = f"local-dir:{find_folder(rest)}", ""
    else:
        architecture, _, pretrained = rest.partition("/")
        known = open_clip.list_pretrained_tags_by_model(architecture)
        if pretrained not in known:
            raise OptionError(
                f"open_clip has no weights {pretrained!r} of {architecture!r}: give a folder, or "
                f"open_clip:ARCHITECTURE/PRETRAINED as open_clip.list_pretrained() lists them"
            )
    config = copy.deepcopy(open_clip.get_model_config(architecture))
    if config is None:
        raise OptionError(f"open_clip knows no architecture {architecture!r}: open_clip.list_models() lists them")
    # Weights that were trained with it need it, whatever the architecture's name says.
    quick = bool(open_clip.get_pretrained_cfg(architecture, pretrained).get("quick_gelu")) if pretrained else False
    if quick:
        config["quick_gelu"] = True
    model, _, transform = open_clip.create_model_and_transforms(
        architecture, pretrained or None, force_quick_gelu=quick, device=device
    )
    return open_clip_clip(name, model.float(), open_clip.get_tokenizer(architecture), transform, config)


def _unit(clip: Clip, parts: list[Tensor]) -> Tensor:
    found = normalize(torch.cat(parts).double().cpu(), dim=1) if parts else torch.zeros(0, clip.width).double()
    if not torch.isfinite(found).all():
        raise ModelError(f"{clip.name} gives embeddings that are not finite: its weights are broken")
    return found
