"""The benchmark of compose at a tiny size."""

import pytest
from pellucid.bench.compose import measure, summary, tables


@pytest.mark.slow
def test_both_ways_agree() -> None:
    found = measure(pictures=2, steps=2, batch=2, threads=1)
    assert found["scores"]["largest_difference"] < 1e-4
    assert 5 <= found["scores"]["samples"] <= 50
    assert found["training"]["ratio"] > 1
    assert "steps a second" in summary(found)
    assert len(tables(found)[0].rows) == 3
