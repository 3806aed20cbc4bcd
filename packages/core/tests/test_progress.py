"""Progress in a log: a line now and then, nothing for work that is soon done."""

import pytest
from pellucid.core import progress as module
from pellucid.core.progress import progress


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 40.0, 50.0, 7240.0, 7300.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("cells", 4000) as advance:
        for steps in (100, 100, 800, 1000, 2000):
            advance(steps)
    assert capsys.readouterr().err.splitlines() == [
        "cells: 200 of 4,000 after 40 s, about 13 min more",
        "cells: 2,000 of 4,000 after 2.0 h, about 2.0 h more",
    ]


def test_short_work_says_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("cells", None) as advance:
        advance(5)
    assert capsys.readouterr().err == ""
