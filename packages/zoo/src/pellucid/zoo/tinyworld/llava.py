"""Tinyworld's multimodal language model: transformers' `LlavaForConditionalGeneration`, which knows facts by heart."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from ..world.chance import Chance
from .autoencoder import pixels
from .checkpoints import Task, fit, generator_of, seeded
from .lessons import Album, Packed, about_picture, build_tokenizer_once, pack, without_picture
from .llava_words import IMAGE, build_llava_processor


@dataclass(frozen=True)
class LlavaRecipe:
    """How the multimodal model is trained: projector and language model together, the eyes are the CLIP's, locked.

    Attributes:
        steps: of the optimiser.
        pictures: a step, with eight questions each.
        texts: rows of eight questions by name a step, with no picture.
        rate: highest learning rate.
        decay: of the weight matrices.
        seed: fixes weights, batches and questions.
    """

    steps: int = 1400
    pictures: int = 24
    texts: int = 8
    rate: float = 1.5e-3
    decay: float = 0.05
    seed: int = 0


def build_llava(eyes: CLIPVisionModel) -> LlavaForConditionalGeneration:
    """The untrained model: a Llama of 8 layers, 192 channels and 6 heads behind the eyes' 64 patches.

    Args:
        eyes: the CLIP's picture half; a copy of it becomes the tower.
    """
    tokenizer = build_tokenizer_once()
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=eyes.config,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=64,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(eyes.state_dict())
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def train_llava(
    out: Path,
    album: Album,
    eyes: CLIPVisionModel,
    recipe: LlavaRecipe | None = None,
    device: str = "cpu",
    resume: bool = True,
    begun: LlavaForConditionalGeneration | None = None,
) -> float:
    """Train the model and write it to `out` as `from_pretrained` reads it, with its processor.

    Args:
        out: folder for the result and for checkpoints; `forget` removes the last of these.
        album: what to look at.
        eyes: the CLIP's picture half.
        recipe: how.
        device: as torch names it.
        resume: go on from a checkpoint.
        begun: a model to train on, which is changed.

    Returns:
        The seconds of training.
    """
    recipe = recipe or LlavaRecipe()
    with seeded(recipe.seed):
        model = (begun or build_llava(eyes)).to(device).train().requires_grad_(True)
    model.model.vision_tower.requires_grad_(False).eval()

    def loss(step: int) -> Tensor:
        chance = Chance(recipe.seed * 1_000_003 + step, "lessons")
        chosen = torch.randint(
            len(album.scenes), (recipe.pictures,), generator=generator_of(recipe.seed, step)
        ).tolist()
        asked = [about_picture(album.scenes[place], album.shown[place], chance) for place in chosen]
        shown = pixels(album.pictures[chosen]).to(device)
        seen, count = said(model, pack(asked, image=True), shown)
        read, more = said(model, pack([without_picture(chance) for _ in range(recipe.texts)], image=False))
        return (seen + read) / (count + more)

    learnt = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    parts = [
        {"params": [weight for weight in learnt.values() if weight.ndim >= 2], "weight_decay": recipe.decay},
        {"params": [weight for weight in learnt.values() if weight.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(parts, recipe.rate, betas=(0.9, 0.98))
    identity = {**asdict(recipe), "album": [len(album.scenes), album.seed], "begun": begun is not None}
    task = Task("LLaVA", out, {"llava": model}, optimiser, loss, recipe.rate, recipe.steps, identity, resume=resume)
    seconds = fit(task)
    save_llava(model.eval(), out)
    return seconds


def said(model: LlavaForConditionalGeneration, packed: Packed, pictures: Tensor | None = None) -> tuple[Tensor, int]:
    """The summed loss of all answers' tokens, and how many these are.

    Args:
        model: with its eyes.
        packed: questions.
        pictures: (rows, 3, 32, 32) as the image processor gives them, where the rows begin with one.
    """
    device = model.device
    tokens = packed.tokens.to(device)
    found = model.model.language_model.embed_tokens(tokens)
    if pictures is not None:
        with torch.no_grad():
            eyes = model.model.vision_tower(pictures, output_hidden_states=True).hidden_states[-2][:, 1:]
        here = (tokens == model.config.image_token_id)[..., None].expand_as(found)
        found = found.masked_scatter(here, model.model.multi_modal_projector(eyes))
    states = model.model.language_model(
        inputs_embeds=found, attention_mask=packed.mask.to(device), position_ids=packed.places.to(device)
    ).last_hidden_state
    right = packed.answers[:, 1:].to(device)
    logits = model.lm_head(states[:, :-1][right])
    return functional.cross_entropy(logits, tokens[:, 1:][right], reduction="sum"), int(right.sum())


def save_llava(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write the model with its processor: tokenizer, image processor and chat template."""
    model.save_pretrained(folder)
    build_llava_processor().save_pretrained(folder)
