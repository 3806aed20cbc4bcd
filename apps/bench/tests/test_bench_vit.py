"""The benchmark of decompositions."""

from pellucid.bench import vit
from pellucid.core.statistics import Estimate


def test_a_row_is_measured_and_the_finding_said() -> None:
    found = vit.measure(batch=2, repeats=2, threads=1, models=("vit_tiny_patch16_224",))
    (row,) = found["rows"]
    assert row["components"] == 12 * 4 + 2
    assert row["error"] < 1e-5
    assert isinstance(row["ratio"], Estimate)
    assert "vit_tiny_patch16_224" in vit.summary(found)
    assert len(vit.tables(found)[0].rows) == 1
