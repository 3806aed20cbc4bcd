"""The tab that edits pictures."""

from typing import Any

from pellucid.core.errors import DataError

from .editing import KINDS, METHODS, Editing, checked_prompts
from .in_words import in_words

ABOUT = (
    "Take a style, an object or a fact out of the model, or turn it into another one. A closed form does it, without "
    "training or data; the pictures before and after have the same seeds, and the model itself stays as it is."
)
OUT, INTO = "Take it out", "Turn it into"


def editing_tab(editing: Editing) -> None:
    """Lay out the tab, within a `gr.Blocks`."""
    import gradio as gr

    waiting = gr.Progress()
    known = editing.concepts(KINDS[0])
    first = known[0] if known else ""
    gr.Markdown(f"{ABOUT}\n\nModel: `{editing.model}`.")
    with gr.Row(elem_classes="beside"):
        with gr.Column(min_width=300):
            kind = gr.Radio(list(KINDS), value=KINDS[0], label="Kind of concept")
            concept = gr.Dropdown(
                known, value=first, label="Concept", allow_custom_value=True, info="Words that stand in prompts."
            )
            what = gr.Radio([OUT, INTO], value=OUT, label="What to do")
            to = gr.Textbox(label="What it turns into", visible=False)
            method = gr.Radio(list(METHODS.items()), value=next(iter(METHODS.values())), label="Where")
        with gr.Column(min_width=300):
            prompts = gr.Textbox(
                "\n".join(editing.examples(first, KINDS[0])), label="Prompts to look at", lines=4,
                info="One a line, at most four; one without the concept shows what has to stay.",
            )  # fmt: skip
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31)
            steps = gr.Slider(5, 50, value=10, step=1, label="Denoising steps")
            guidance = gr.Slider(1, 15, value=4, step=0.5, label="Guidance")
            draw = gr.Button("Draw before and after", variant="primary")
    summary = gr.Markdown()
    with gr.Row(elem_classes="beside"):
        before = gr.Gallery(label="Before", columns=2, height="auto", interactive=False, buttons=[])
        after = gr.Gallery(label="After", columns=2, height="auto", interactive=False, buttons=[])
    files = gr.File(label="The edit, and a LoRA for other tools", file_count="multiple", visible=False)

    @in_words
    def of_kind(name: str) -> tuple[Any, str]:
        names = editing.concepts(name)
        chosen = names[0] if names else ""
        return gr.update(choices=names, value=chosen), "\n".join(editing.examples(chosen, name))

    @in_words
    def drawn(
        words: str, of: str, do: str, new: str, how: str, texts: str, number: float | None, count: float, scale: float,
        progress: Any = waiting,
    ) -> tuple[str, Any, Any, Any]:  # fmt: skip
        asked = checked_prompts([line for line in (texts or "").splitlines() if line.strip()])
        if number is None:
            raise DataError("the seed is empty: give a whole number from 0")
        progress(0.05, desc="Solving for the edit")
        made = editing.make(words, of, new if do == INTO else None, how)
        progress(0.2, desc="Drawing before")
        old = editing.draw(asked, int(number), int(count), scale)
        progress(0.6, desc="Drawing after")
        new_ones = editing.draw(asked, int(number), int(count), scale, made.edit)
        return (
            made.summary,
            list(zip(old, asked, strict=True)),
            list(zip(new_ones, asked, strict=True)),
            gr.update(value=[str(path) for path in made.files], visible=True),
        )

    kind.change(of_kind, kind, [concept, prompts], api_visibility="private")
    concept.input(
        in_words(lambda name, of: "\n".join(editing.examples(name, of)) or gr.skip()), [concept, kind], prompts,
        api_visibility="private",
    )  # fmt: skip
    what.change(lambda do: gr.update(visible=do == INTO), what, to, api_visibility="private")
    draw.click(
        drawn, [concept, kind, what, to, method, prompts, seed, steps, guidance], [summary, before, after, files],
        api_visibility="private", concurrency_id="model", concurrency_limit=1,
    )  # fmt: skip
