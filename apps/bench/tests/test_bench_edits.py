"""The benchmark of edits: both ways give the same weights, and every number is there."""

from pellucid.bench import edits


def test_both_ways_agree_and_the_finding_is_said(monkeypatch):
    monkeypatch.setattr(edits, "SDXL", [(64, 32)] * 4)
    monkeypatch.setattr(edits, "SD15_TEXT", [(48, 48)])
    found = edits.measure(prompts=5, threads=1)
    for name in ("sd15_text", "sdxl_keys_values"):
        assert found[name]["largest_difference"] < 1e-5
        assert found[name]["ratio"] > 0
    assert found["tracing"]["layers"] > 10
    assert "times as fast as repeating it" in edits.summary(found)
