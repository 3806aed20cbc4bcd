"""The tab that looks inside a vision transformer."""

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .in_words import in_words
from .looking import Looking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .looking import Carried, Looked

ABOUT = (
    "The model's representation of a picture is the exact sum of what each head and MLP adds. Each part, mapped into "
    "the space of a CLIP, says something in words: here is which parts carry a feature, what they say of this picture, "
    "where they find it, and which other pictures they find alike. The first look takes a minute: the model is taken "
    "apart over some hundred drawn pictures, once."
)
OFFERED = 12  # pictures to choose from
FIRST = "place"


def looking_tab(looking: Looking) -> None:
    """Lay out the tab, within a `gr.Blocks`."""
    import gradio as gr

    from .picture_input import picture_input

    waiting = gr.Progress()
    features = looking.features()
    offered = looking.pictures()[:OFFERED]
    first = FIRST if FIRST in features else next(iter(features))
    gr.Markdown(f"{ABOUT}\n\nModel: `{looking.model}`.")
    with gr.Row(elem_classes="beside"):
        with gr.Column(min_width=300):
            gallery = gr.Gallery(
                [(str(path), f"drawn picture {place}") for place, path in enumerate(offered, 1)],
                label="Pictures of the drawn world", columns=6, height="auto", allow_preview=False, interactive=False,
                buttons=[],
            )  # fmt: skip
            image = picture_input(str(offered[0]), "Picture")
        with gr.Column(min_width=300):
            feature = gr.Dropdown(list(features), value=first, label="Feature")
            text = gr.Dropdown(
                features[first], value=features[first][0], label="Text", allow_custom_value=True,
                info="Where in the picture is it, and which pictures show it?",
            )  # fmt: skip
            look = gr.Button("Look", variant="primary")
            heat = gr.HTML(label="Where the best head finds the text", show_label=True, container=True)
    table = gr.HTML(label="What components say of this picture")
    with gr.Row(elem_classes="beside"):
        alike = gr.Gallery(label="Alike in this feature", columns=4, height=300, interactive=False, buttons=[])
        found = gr.Gallery(label="Found by the text", columns=4, height=300, interactive=False, buttons=[])

    def chosen(event: gr.SelectData) -> str:
        return str(offered[event.index])

    def of_feature(name: str) -> Any:
        return gr.update(choices=features[name], value=features[name][0])

    @in_words
    def looked(path: str | None, name: str, words: str, progress: Any = waiting) -> tuple[str, str, Any, Any]:
        said = looking.look(path, name, words, lambda share, what: progress(share, desc=what))
        return as_picture(said, words), as_table(said.carried), _shown(said.alike), _shown(said.found)

    gallery.select(chosen, None, image, api_visibility="private")
    feature.change(of_feature, feature, text, api_visibility="private")
    look.click(
        looked, [image, feature, text], [heat, table, alike, found], api_visibility="private", concurrency_id="model",
        concurrency_limit=1,
    )  # fmt: skip


def as_picture(said: "Looked", words: str) -> str:
    """Write a heat map as HTML, with what it shows."""
    import base64
    from io import BytesIO

    file = BytesIO()
    said.heat.save(file, "PNG")
    told = html.escape(f"Head {said.head}: red adds to “{words}”, blue works against it.")
    data = base64.b64encode(file.getvalue()).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{told}">'
    return f'<figure class="heat">{image}<figcaption>{told}</figcaption></figure>'


def as_table(rows: "Sequence[Carried]") -> str:
    """Write components as an HTML table, escaped."""
    lines = "".join(
        f"<tr><td>{html.escape(row.component)}</td><td>{row.score:.2f}</td><td>{html.escape(row.says)}</td>"
        f"<td>{row.amount:.3f}</td></tr>"
        for row in rows
    )
    heads = ("component", "score for the feature", "says of this picture", "by how much")
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Components"><table><thead><tr>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _shown(found: "Sequence[tuple[Path, float]]") -> list[tuple[str, str]]:
    return [(str(path), f"{similarity:.2f}") for path, similarity in found]
