"""`pellucid studio`: a page to try the methods on."""

from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import TRY, Device

HERE = "127.0.0.1"

app = typer.Typer(help="Serve a page to try the methods on.", rich_help_panel=TRY)


@app.command()
def studio(
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7860,
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine unless you say otherwise.")] = HERE,
    answers: Annotated[str, typer.Option(help="Language model: zoo:NAME, a folder or a hub id.")] = "zoo:smollm2",
    head: Annotated[str | None, typer.Option(help="Its attention head, LAYER.HEAD; for models of yours.")] = None,
    pictures: Annotated[str, typer.Option(help="Text-to-image pipeline.")] = "zoo:tinyworld-sd",
    facts: Annotated[str, typer.Option(help="Multimodal language model.")] = "zoo:tinyworld-llava",
    vision: Annotated[str, typer.Option(help="Vision model, also timm:NAME.")] = "zoo:tinyworld-vit",
    clip: Annotated[str, typer.Option(help="CLIP whose words describe the vision model.")] = "zoo:tinyworld-clip",
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Folder for what is made and computed once.")] = Path("runs/studio"),
) -> None:
    """Serve a page to try the methods on."""
    import os

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from pellucid.core.errors import OptionError

    from .page import Choices, page, serve

    _check_free(host, port)
    out.mkdir(parents=True, exist_ok=True)
    blocks = page(Choices(answers, head, pictures, facts, vision, clip, out, _placed(device)))
    if host != HERE:
        typer.echo(f"Everybody who reaches {host} can use this page and the models behind it.", err=True)
    typer.echo(f"http://{host}:{port} (Ctrl-C ends it)", err=True)
    try:
        serve(blocks, host, port, out)
    except OSError as error:
        raise OptionError(f"the page cannot be served on {host}:{port}: {error}") from error


def _placed(device: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _check_free(host: str, port: int) -> None:
    import socket

    from pellucid.core.errors import OptionError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OptionError(f"--port {port}: {host}:{port} cannot be used ({error.strerror}): give another") from None
