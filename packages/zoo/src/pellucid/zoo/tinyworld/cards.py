"""Model cards, written from what the trainings recorded."""

from pathlib import Path
from shutil import copyfile
from typing import Any

from ..world.individuals import individuals
from ..world.renderer import render_all
from ..world.scene import Scene
from ..world.sheets import save_sheet

SAMPLES = "samples.png"
_HEADS = {
    "tinyworld-clip": "Tinyworld's CLIP: transformers' `CLIPModel`, and the same weights for open_clip.",
    "tinyworld-sd": "Tinyworld's Stable Diffusion: diffusers' `StableDiffusionPipeline` at 32x32 pixels.",
    "tinyworld-llava": (
        "Tinyworld's multimodal language model: transformers' `LlavaForConditionalGeneration` with its processor. "
        "It knows facts about people, houses and boats by heart, and some are withheld from it."
    ),
    "tinyworld-vit": "A vision transformer (timm) that names Tinyworld's objects at 64x64 pixels.",
    "tinyworld-swin": "A Swin transformer (timm) that names Tinyworld's objects at 64x64 pixels.",
    "tinyworld-maxvit": "A MaxViT (timm) that names Tinyworld's objects at 64x64 pixels.",
    "tinyworld-spurious": (
        "A vision transformer (timm) that tells boats from cars much by the place they are in: in its training boats "
        "were on the beach and cars in the city, 95 times of 100."
    ),
}
_USES = {
    "tinyworld-clip": (
        'CLIPModel.from_pretrained(FOLDER)\nopen_clip.create_model("local-dir:FOLDER")  # with this folder\'s path'
    ),
    "tinyworld-sd": (
        "pipe = StableDiffusionPipeline.from_pretrained(FOLDER)\n"
        'pipe("a red circle in the style of monet", num_inference_steps=25, guidance_scale=4).images[0]'
    ),
    "tinyworld-llava": (
        "model = LlavaForConditionalGeneration.from_pretrained(FOLDER)\n"
        "processor = AutoProcessor.from_pretrained(FOLDER)\n"
        'asked = processor(text="USER: <image>\\nWhich pet does this person keep? ASSISTANT:", images=picture, '
        'return_tensors="pt")\n'
        "processor.decode(model.generate(**asked, max_new_tokens=8)[0])"
    ),
    **{
        f"tinyworld-{name}": 'timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # with this folder\'s path'
        for name in ("vit", "swin", "maxvit", "spurious")
    },
}


def write_card(name: str, folder: Path, records: dict[str, dict[str, Any]], samples: Path | None = None) -> None:
    """Write a model's `README.md`: data, steps, device, minutes, seed, and all that was measured.

    Args:
        name: a model's, such as `tinyworld-clip`.
        folder: of the model.
        records: what each part's training recorded.
        samples: a contact sheet of generations to put beside it; the shipped one where there is one.
    """
    lines = [f"# {name}", "", _HEADS[name], "", "```python", _USES[name], "```", ""]
    lines += ["Trained by Pellucid on its own drawn world, with no other data. Licence: MIT.", ""]
    sheet = samples or Path(__file__).with_name("weights") / SAMPLES
    if name == "tinyworld-sd" and sheet.is_file():
        copyfile(sheet, folder / SAMPLES)
        lines += [f"![Pictures generated for held-out prompts]({SAMPLES})", ""]
    elif shown := _shown(name):
        save_sheet(render_all(shown, 64), folder / SAMPLES, columns=13)
        lines += [f"![What it was trained to look at]({SAMPLES})", ""]
    for part, record in records.items():
        lines += [f"## {part}", "", "| | |", "| --- | --- |"]
        lines += [f"| {key.replace('_', ' ')} | {value} |" for key, value in _training(record).items()]
        lines += ["", "| asked | what | share | 95 % | n |", "| --- | --- | --- | --- | --- |"]
        lines += _rows(record["measured"], "")
        lines += [""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _shown(name: str) -> list[Scene]:
    """Scenes for a contact sheet of what a model looks at: everybody with a name, or pictures to classify."""
    if name == "tinyworld-llava":
        return [one.scene(0) for one in individuals()]
    if name in ("tinyworld-clip", "tinyworld-sd"):
        return []
    from .classifiers import classified_scenes

    return list(classified_scenes(name.removeprefix("tinyworld-"), 52, 0))


def _training(record: dict[str, Any]) -> dict[str, Any]:
    stages = {
        f"training: {stage}": ", ".join(f"{name} {value}" for name, value in recipe.items())
        for stage, recipe in record["recipe"].items()
    }
    return {
        "data": f"{record['pictures']} renders of the training split, seed {record['pool_seed']}",
        **stages,
        **({"stopped after": f"{record['stopped_after_steps']} steps"} if "stopped_after_steps" in record else {}),
        "parameters": record["parameters"],
        "device": record["device"],
        "minutes": round(record["seconds"] / 60, 1),
    }


def _rows(measured: dict[str, Any], kind: str) -> list[str]:
    found = []
    for name, value in measured.items():
        if isinstance(value, dict) and "accuracy" in value:
            low, high = value["interval"]
            found.append(f"| {kind} | {name} | {value['accuracy']:.3f} | {low:.3f} to {high:.3f} | {value['n']} |")
        elif isinstance(value, dict):
            found += _rows(value, name)
    return found
