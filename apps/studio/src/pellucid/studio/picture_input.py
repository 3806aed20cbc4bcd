"""An input for a picture that says in words what is wrong with a file that is none."""

from typing import TYPE_CHECKING, Any

from .in_words import in_words
from .limits import picture

if TYPE_CHECKING:
    import gradio as gr


def picture_input(value: str | None, label: str) -> "gr.Image":
    """Gradio's image, given to handlers as a path.

    Gradio opens files before any handler could say what is wrong with them; here they are checked first. (A class of
    our own would do, too, but Gradio writes a file beside the module of each such class.)

    Args:
        value: path of the picture to begin with.
        label: what stands above it.
    """
    import gradio as gr

    found = gr.Image(
        value, label=label, type="filepath", image_mode=None, sources=["upload"], height=240, buttons=[],
        elem_classes="picture",
    )  # fmt: skip
    read = found.preprocess

    def checked(payload: Any) -> Any:
        if payload is not None and payload.path is not None:
            in_words(picture)(payload.path)
        return read(payload)

    found.preprocess = checked  # type: ignore[method-assign]
    return found
