"""The page: four tabs, one look, and the server's bounds."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .limits import UPLOAD

if TYPE_CHECKING:
    import gradio as gr

WAITING = 16  # requests in the queue before a visitor is asked to come back

CSS = """
.dark { --color-accent: #fdba74; }
.gradio-container { max-width: 1200px !important; width: 100% !important; min-width: 0 !important; margin: 0 auto; }
.passage { white-space: pre-wrap; line-height: 1.6; overflow-wrap: anywhere; color: #111827; background: #ffffff;
  padding: 0.75rem; border-radius: 0.25rem; max-height: 28rem; overflow-y: auto; }
.passage mark { color: #111827; padding: 0.1rem 0.15rem; border-radius: 0.2rem; }
.passage .rank { font-size: 0.8em; }
.caption-label { white-space: normal !important; max-width: 100% !important; }
.wide { overflow-x: auto; }
.wide table { border-collapse: collapse; width: 100%; font-size: 0.9rem; border: 0 !important; }
.wide th, .wide td { text-align: left; padding: 0.3rem 0.6rem; border: 0 !important;
  border-bottom: 1px solid #d1d5db !important; }
.picture img { width: 180px; height: 180px; object-fit: contain; image-rendering: pixelated; }
.heat img { width: 320px; max-width: 100%; image-rendering: pixelated; }
@media (max-width: 760px) { .beside { flex-direction: column !important; }
  .column { min-width: 0 !important; width: 100%; } }
"""


@dataclass(frozen=True)
class Choices:
    """Which models the page works with, and where; see the command's options.

    Attributes:
        answers: a causal language model.
        head: its attention head, LAYER.HEAD; None takes a known one.
        pictures: a diffusion pipeline.
        facts: a multimodal language model.
        vision: a vision model.
        clip: the CLIP whose words describe the vision model.
        keep: a folder for what is made and computed once.
        device: such as "cpu" or "cuda".
    """

    answers: str
    head: str | None
    pictures: str
    facts: str
    vision: str
    clip: str
    keep: Path
    device: str


def page(choices: Choices) -> "gr.Blocks":
    """Build the page; models are loaded by the first request that needs them."""
    import gradio as gr

    from .asking import Asking
    from .asking_tab import asking_tab
    from .correcting import Correcting
    from .correcting_tab import correcting_tab
    from .editing import Editing
    from .editing_tab import editing_tab
    from .looking import Looking
    from .looking_tab import looking_tab

    with gr.Blocks(title="Pellucid studio", analytics_enabled=False) as blocks:
        gr.Markdown("# Pellucid studio\nFind where a trained model keeps what it knows, and change it there.")
        with gr.Tab("Ask a document"):
            asking_tab(Asking(choices.answers, choices.head, choices.device))
        with gr.Tab("Edit pictures"):
            editing_tab(Editing(choices.pictures, choices.keep / "edits", choices.device))
        with gr.Tab("Correct an answer"):
            correcting_tab(Correcting(choices.facts, choices.keep, choices.device))
        with gr.Tab("Look inside"):
            looking_tab(Looking(choices.vision, choices.clip, choices.keep / "looks", choices.device))
    return blocks


def serve(blocks: "gr.Blocks", host: str, port: int, keep: Path) -> None:
    """Serve the page until it is interrupted.

    Args:
        blocks: the page.
        host: address to listen on.
        port: to listen on.
        keep: the folder whose files the page may offer.

    Raises:
        OSError: the port is taken.
    """
    import gradio as gr

    # The page has to work without a network: fonts of the system, no analytics, nothing fetched.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme.set(  # greys and an orange that can be read
        body_text_color_subdued="#4b5563", body_text_color_subdued_dark="#d1d5db", block_info_text_color="#4b5563",
        block_info_text_color_dark="#d1d5db", color_accent="#9a3412", button_primary_background_fill="#9a3412",
        button_primary_background_fill_dark="#9a3412", button_primary_background_fill_hover="#7c2d12",
        button_primary_background_fill_hover_dark="#7c2d12",
    )  # fmt: skip
    blocks.queue(max_size=WAITING, default_concurrency_limit=1).launch(
        server_name=host, server_port=port, theme=theme, css=CSS, share=False, quiet=True, max_file_size=UPLOAD,
        allowed_paths=[str(keep.resolve())], show_error=True, footer_links=[], enable_monitoring=False, ssr_mode=False,
        strict_cors=True,
    )  # fmt: skip
