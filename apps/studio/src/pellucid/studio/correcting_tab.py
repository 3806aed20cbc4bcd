"""The tab that corrects an answer about a picture."""

from typing import Any

from .correcting import Correcting, as_table
from .in_words import in_words

ABOUT = (
    "Ask the model about a picture. Where its answer is wrong, type the right one: a closed-form edit of one MLP puts "
    "it in. The table shows whether it holds in other words and for other pictures (generalisation), and whether other "
    "answers stay (specificity)."
)


def correcting_tab(correcting: Correcting) -> None:
    """Lay out the tab, within a `gr.Blocks`."""
    import gradio as gr

    from .picture_input import picture_input

    examples = correcting.examples()
    first = examples[0] if examples else None
    gr.Markdown(f"{ABOUT}\n\nModel: `{correcting.model}`.")
    correction, waiting = gr.State(None), gr.Progress()
    with gr.Row(elem_classes="beside"):
        with gr.Column(min_width=300):
            if examples:
                gallery = gr.Gallery(
                    [(one.image, one.entity) for one in examples], label="People of the drawn world", columns=6,
                    height="auto", allow_preview=False, interactive=False, buttons=[],
                )  # fmt: skip
            image = picture_input(None if first is None else first.image, "Picture")
            question = gr.Textbox(None if first is None else first.question, label="Question")
            ask = gr.Button("Ask")
            said = gr.Textbox(label="What the model says", interactive=False)
        with gr.Column(min_width=300):
            constraint = gr.Textbox(
                "this person" if first is None else first.visual, label="Words that stand for the picture",
                info="They have to stand in the question.",
            )  # fmt: skip
            answer = gr.Textbox(None if first is None else first.answers[0], label="Right answer")
            paraphrases = gr.Textbox(label="In other words", lines=2, info="One question a line; may be empty.")
            stay = gr.Textbox(
                label="Must stay as it is", lines=2, info="One question about this picture a line; may be empty."
            )
            correct = gr.Button("Correct", variant="primary")
            undo = gr.Button("Undo the correction")
    summary = gr.Markdown()
    table = gr.HTML(label="Before and after")
    file = gr.File(label="The edit, to apply elsewhere (WeightEdit.load)", visible=False)

    @in_words
    def chosen(event: gr.SelectData) -> tuple[str, str, str, str, None, str, str, str, Any]:
        one = examples[event.index]
        return one.image, one.question, one.visual, one.answers[0], None, "", "", "", gr.update(visible=False)

    @in_words
    def asked(path: str | None, text: str, edit: Any) -> str:
        found, confidence = correcting.ask(path, text, edit)
        return f"{found} (first word {confidence:.0%}{', corrected' if edit is not None else ''})"

    @in_words
    def corrected(
        path: str | None, text: str, visual: str, wanted: str, other: str, kept: str, progress: Any = waiting
    ) -> tuple[Any, str, str, Any]:
        progress(0.1, desc="Looking for the value that says the answer")
        found = correcting.correct(path, text, visual, wanted, _lines(other), _lines(kept))
        return found.edit, found.summary, as_table(found.rows), gr.update(value=str(found.file), visible=True)

    @in_words
    def undone() -> tuple[None, str, str, Any]:
        return None, "The model is as it was.", "", gr.update(visible=False)

    model: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
    given = [image, question, constraint, answer]
    if examples:
        gallery.select(
            chosen, None, [*given, correction, said, summary, table, file], api_visibility="private"
        )  # fmt: skip
    for event in (ask.click, question.submit):
        event(asked, [image, question, correction], said, **model)
    correct.click(corrected, [*given, paraphrases, stay], [correction, summary, table, file], **model)
    undo.click(undone, None, [correction, summary, table, file], api_visibility="private")


def _lines(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]
