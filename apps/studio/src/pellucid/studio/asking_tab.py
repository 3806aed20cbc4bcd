"""The tab that answers from a document."""

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .asking import DOCUMENT, QUESTION, Asking
from .in_words import in_words
from .limits import document as read_document

if TYPE_CHECKING:
    from pellucid.core.passages import Passage

ABOUT = (
    "The model answers from the document. One of its attention heads is read while it writes: the sentences that the "
    "head looks at are where the answer comes from. It costs nothing beside the answer itself."
)


def asking_tab(asking: Asking) -> None:
    """Lay out the tab, within a `gr.Blocks`."""
    import gradio as gr

    gr.Markdown(f"{ABOUT}\n\nModel: `{asking.model}`.")
    with gr.Row(elem_classes="beside"):
        with gr.Column(min_width=300):
            document = gr.Textbox(
                DOCUMENT, label="Document", lines=9, max_lines=16, info="Paste a text here, or upload one below."
            )
            upload = gr.File(
                label="Upload a document (.txt or .md)", file_types=[".txt", ".md"], type="filepath", height=120
            )
            question = gr.Textbox(QUESTION, label="Question", info="Enter asks, too.")
            ask = gr.Button("Ask", variant="primary")
        with gr.Column(min_width=300):
            answer = gr.Textbox(label="Answer", lines=2, interactive=False)
            sources = gr.HTML(label="Where it comes from", show_label=True, container=True, min_height=120)

    @in_words
    def uploaded(path: str | None) -> Any:
        return gr.skip() if path is None else read_document(path)

    @in_words
    def asked(text: str, about: str) -> Iterator[tuple[str, str]]:
        yield "", ""
        for told in asking.stream(text, about):
            yield told.answer, as_html(told.passage)

    upload.change(uploaded, upload, document, api_visibility="private")
    for event in (ask.click, question.submit):
        event(
            asked, [document, question], [answer, sources], api_visibility="private", concurrency_id="model",
            concurrency_limit=1, show_progress="minimal", trigger_mode="always_last",
        )  # fmt: skip


def as_html(passage: "Passage") -> str:
    """Write a passage as HTML: escaped, with its marks coloured by strength and read aloud."""
    pieces = []
    for text, mark in passage.pieces():
        shown = html.escape(text)
        if mark is not None:
            shade = f"background: rgba(255, 193, 7, {mark.strength:.2f})"
            shown = f'<mark style="{shade}"><b class="rank">{html.escape(mark.label)}</b> {shown}</mark>'
        pieces.append(shown)
    return f'<div class="passage">{"".join(pieces)}</div>'
