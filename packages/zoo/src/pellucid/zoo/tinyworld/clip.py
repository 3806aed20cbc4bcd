"""Tinyworld's CLIP: transformers' `CLIPModel`, trained to match pictures with captions."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from .autoencoder import pixels
from .checkpoints import Task, fit, generator_of, seeded
from .data import PARAPHRASES, Pool
from .open_clip_files import save_for_open_clip
from .tokenizer import LENGTH, build_tokenizer, save_tokenizer

_WARMEST = 4.6052  # the logarithm of 100, as in the paper


@dataclass(frozen=True)
class ClipRecipe:
    """How the CLIP is trained.

    Attributes:
        steps: of the optimiser.
        batch: pairs a step.
        rate: highest learning rate.
        decay: of the weight matrices.
        seed: fixes weights, batches and paraphrases.
    """

    steps: int = 1500
    batch: int = 128
    rate: float = 1e-3
    decay: float = 0.05
    seed: int = 0


def build_clip() -> CLIPModel:
    """The untrained model: 2 x 4 layers of 128 channels and 4 heads, pictures in 64 patches, 1.8 million parameters."""
    tokenizer = build_tokenizer()
    tower = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
        "projection_dim": 128,
    }
    text = tower | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = tower | {"image_size": 32, "patch_size": 4}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def build_processor() -> CLIPImageProcessor:
    """What turns pictures into the model's input: 32x32, from -1 to 1."""
    return CLIPImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def train_clip(
    out: Path,
    pool: Pool,
    recipe: ClipRecipe | None = None,
    device: str = "cpu",
    resume: bool = True,
    begun: CLIPModel | None = None,
) -> float:
    """Train the CLIP and write it to `out` as `from_pretrained` reads it, with tokenizer and image processor.

    Args:
        out: folder for the result and for checkpoints; `forget` removes the last of these.
        pool: what to train on.
        recipe: how.
        device: as torch names it.
        resume: go on from a checkpoint.
        begun: a CLIP to train on, which is changed: its text half is locked and its picture half alone learns, as in
            LiT (Zhai et al. 2022). The eyes take longer to learn than the words, and Stable Diffusion has those.

    Returns:
        The seconds of training.
    """
    recipe = recipe or ClipRecipe()
    with seeded(recipe.seed):
        model = (begun or build_clip()).to(device).train().requires_grad_(True)
    if begun is not None:
        model.text_model.requires_grad_(False)
        model.text_projection.requires_grad_(False)
    end = model.config.text_config.eos_token_id

    def loss(step: int) -> Tensor:
        chance = generator_of(recipe.seed, step)
        chosen = torch.randint(len(pool), (recipe.batch,), generator=chance).numpy()
        said = torch.randint(PARAPHRASES, (recipe.batch,), generator=chance).numpy()
        tokens = trimmed(torch.from_numpy(pool.tokens[chosen, said].astype("int64")), end).to(device)
        plain = torch.from_numpy(pool.tokens[chosen, 0].astype("int64")).to(device)
        shown = pixels(pool.pictures[chosen]).to(device)
        found = model(input_ids=tokens, pixel_values=shown)
        return matching_loss(found.logits_per_image, (plain[:, None] == plain[None]).all(2))

    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    parts = [
        {"params": [weight for weight in learnt if weight.ndim >= 2], "weight_decay": recipe.decay},
        {"params": [weight for weight in learnt if weight.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(parts, recipe.rate, betas=(0.9, 0.98))

    def cool(step: int) -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(max=_WARMEST)

    identity = {**asdict(recipe), "pool": [len(pool), pool.seed], "begun": begun is not None}
    task = Task("CLIP", out, {"clip": model}, optimiser, loss, recipe.rate, recipe.steps, identity, cool, resume)
    seconds = fit(task)
    save_clip(model.eval(), out)
    return seconds


def save_clip(model: CLIPModel, folder: Path) -> None:
    """Write the model for transformers and for open_clip, with its tokenizer and image processor."""
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    save_tokenizer(folder)
    save_for_open_clip(model, folder)


def matching_loss(logits: Tensor, same: Tensor) -> Tensor:
    """CLIP's loss in both directions; pairs whose captions say the same are not told apart.

    Args:
        logits: (n, n), each picture with each caption.
        same: (n, n) bool, where two captions say the same.
    """
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = logits.masked_fill(others, -torch.inf)
    right = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


def trimmed(tokens: Tensor, end: int) -> Tensor:
    """Token ids without the columns that only pad: the first `end` of each row stays."""
    return tokens[:, : int((tokens == end).int().argmax(1).max()) + 1]
