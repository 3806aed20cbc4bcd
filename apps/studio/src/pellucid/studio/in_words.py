"""Errors as one line on the page, never a traceback."""

import functools
import html
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pellucid.core.errors import PellucidError

log = logging.getLogger(__name__)


def in_words(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an event's handler (a function or a generator) so that what it raises is shown as a line on the page."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def streamed(*args: Any, **options: Any) -> Iterator[Any]:
            with _told():
                yield from handler(*args, **options)

        return streamed

    @functools.wraps(handler)
    def called(*args: Any, **options: Any) -> Any:
        with _told():
            return handler(*args, **options)

    return called


@contextmanager
def _told() -> Iterator[None]:
    import gradio as gr

    try:
        yield
    except gr.Error:
        raise
    except PellucidError as error:
        raise gr.Error(html.escape(str(error)), title="That did not work", print_exception=False) from None
    except Exception as error:
        log.exception("a handler of the page failed")
        line = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        raise gr.Error(html.escape(line), title="A fault of ours", print_exception=False) from None
