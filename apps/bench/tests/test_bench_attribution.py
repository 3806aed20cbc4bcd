"""The benchmark of attribution: memory as it is measured, and the finding said."""

from pellucid.bench import attribution
from pellucid.core.statistics import Estimate
from pellucid.qa_circuits.attribution_study import MethodSources, SourceStudy


def test_attention_maps_cost_more_memory_than_rows() -> None:
    (found,) = attribution.memory(threads=1, lengths=[3000])
    assert found["maps_mb"] > 50 > found["rows_mb"]


def test_the_finding_is_said() -> None:
    share = Estimate(0.5, 0.4, 0.6)
    study = SourceStudy((MethodSources("attention", share, share, share),), share, share, 4, None, None)
    found = {
        "generation": {"ratio": share},
        "sources": study,
        "context_cite": {"accuracy": share, "seconds": share, "documents": 1, "behind": share},
        "memory": [{"tokens": 8000, "plain_mb": 1.0, "rows_mb": 2.0, "maps_mb": 900.0}],
    }
    assert "takes 0.5 [0.4, 0.6] times as long" in attribution.summary(found)
    assert [len(table.rows) for table in attribution.tables(found)] == [2, 1]
    assert "ContextCite is not installed" in attribution.summary(
        found | {"context_cite": "ContextCite is not installed"}
    )
