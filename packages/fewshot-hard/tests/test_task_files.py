import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pellucid.core.errors import DataError
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.samplers import sample_tasks
from pellucid.fewshot_hard.task_files import load_tasks, save_tasks
from pellucid.fewshot_hard.tasks import Task

MADE = {"backbone": "pixels", "sampler": "fixed", "alpha": 200.0}


def made_pool(n=60, classes=6, scale=1.0, ids=None, labels=None):
    random = np.random.default_rng(0)
    return Pool(
        (scale * random.normal(size=(n, 4))).astype(np.float32),
        np.arange(n) % classes if labels is None else labels,
        tuple(f"kind {i}" for i in range(classes)),
        tuple(f"folder/é {i}.png" for i in range(n)) if ids is None else ids,
        {},
        np.arange(n, dtype=np.uint64),
    )


def tasks_of(pool, count=4):
    return sample_tasks(pool, count, "meta-dataset", seed=5)


def test_what_is_saved_is_loaded(tmp_path):
    pool = made_pool()
    tasks = [*tasks_of(pool), Task((0, 3), ((0,), (3, 9)), ((6, 12), (15,)), "hard", 9, "swap")]
    save_tasks(tmp_path / "a.parquet", tasks, pool, MADE)
    found = load_tasks(tmp_path / "a.parquet", pool)
    assert found.tasks == tasks
    assert found.provenance == MADE
    save_tasks(tmp_path / "b.parquet", tasks, pool, MADE)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_the_table_can_be_read_by_anybody(tmp_path):
    pool = made_pool()
    tasks = tasks_of(pool)
    save_tasks(tmp_path / "a.parquet", tasks, pool, MADE)
    table = pq.read_table(tmp_path / "a.parquet")
    row = table.to_pylist()[0]
    assert row["classes"] == [pool.classes[label] for label in tasks[0].classes]
    assert row["support"][0] == [pool.ids[i] for i in tasks[0].support[0]]
    assert row["shots"] == list(tasks[0].shots)
    meta = json.loads(table.schema.metadata[b"pellucid"])
    assert meta["schema"] == "pellucid-tasks/1"
    assert meta["digest"] == pool.digest


def test_a_pool_of_another_backbone_carries_the_tasks(tmp_path):
    pool = made_pool()
    save_tasks(tmp_path / "a.parquet", tasks_of(pool), pool, MADE)
    assert load_tasks(tmp_path / "a.parquet", made_pool(scale=3.0)).tasks == tasks_of(pool)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(2, 6),
    st.sampled_from(["default", "hard", "easy"]),
    st.integers(0, 2**62),
    st.lists(st.text(min_size=1, max_size=8), min_size=60, max_size=60, unique=True),
    st.data(),
)
def test_any_task_comes_back(tmp_path, way, kind, seed, ids, data):
    try:
        for name in ids:
            name.encode()
    except UnicodeEncodeError:
        return
    pool = made_pool(ids=tuple(ids))
    support, query = [], []
    for label in range(way):
        rows = data.draw(st.permutations(list(range(label, 60, 6))))
        cut = data.draw(st.integers(1, 9))
        support.append(tuple(rows[:cut]))
        query.append(tuple(rows[cut:]))
    task = Task(tuple(range(way)), tuple(support), tuple(query), kind, seed, "greedy")
    save_tasks(tmp_path / "any.parquet", [task], pool, {})
    assert load_tasks(tmp_path / "any.parquet", pool).tasks == [task]


def test_a_changed_pool_is_refused_and_the_difference_named(tmp_path):
    pool = made_pool()
    path = tmp_path / "a.parquet"
    save_tasks(path, tasks_of(pool), pool, MADE)
    ids = [f"other {i}" if i == tasks_of(pool)[0].query[0][0] else name for i, name in enumerate(pool.ids)]
    with pytest.raises(DataError, match=r"1 of its images are not in this pool, such as 'folder/é \d+\.png'; give"):
        load_tasks(path, made_pool(ids=tuple(ids)))
    with pytest.raises(DataError, match="that had 60 images, this one has 66"):
        load_tasks(path, made_pool(n=66))
    with pytest.raises(DataError, match="labels or the images themselves have changed"):
        load_tasks(path, made_pool(labels=(np.arange(60) + 1) % 6))
    renamed = Pool(pool.embeddings, pool.labels, tuple("abcdef"), pool.ids, {}, pool.contents)
    with pytest.raises(DataError, match="6 of its classes are not in this pool, such as 'kind"):
        load_tasks(path, renamed)
    with pytest.raises(DataError, match="another pool") as found:
        load_tasks(path, renamed)
    assert "\n" not in str(found.value)
    assert pool.digest[:12] in str(found.value)


def test_damaged_files_are_refused_in_one_line(tmp_path):
    pool = made_pool()
    path = tmp_path / "a.parquet"
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        load_tasks(path, pool)
    save_tasks(path, tasks_of(pool), pool, MADE)
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], b"\0" * 500, whole[:100] + b"\xff" * 200 + whole[300:]):
        path.write_bytes(content)
        with pytest.raises(DataError) as found:
            load_tasks(path, pool)
        assert "\n" not in str(found.value)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(DataError, match="no file of Pellucid's tasks"):
        load_tasks(path, pool)


def rewritten(path, change=None, **meta):
    table = pq.read_table(path)
    held = json.loads(table.schema.metadata[b"pellucid"]) | meta
    rows = table.to_pylist()
    if change:
        change(rows[0])
    new = pa.Table.from_pylist(rows, schema=table.schema.remove_metadata())
    pq.write_table(new.replace_schema_metadata({b"pellucid": json.dumps(held)}), path)


def test_files_that_contradict_themselves_are_refused(tmp_path):
    pool = made_pool()
    path = tmp_path / "a.parquet"

    def refused(match, change=None, **meta):
        save_tasks(path, tasks_of(pool), pool, MADE)
        rewritten(path, change, **meta)
        with pytest.raises(DataError, match=match):
            load_tasks(path, pool)

    refused("has the schema 'pellucid-tasks/2'", schema="pellucid-tasks/2")
    refused("task 0 contradicts itself", lambda row: row.update(way=99))
    refused("task 0 contradicts itself", lambda row: row["classes"].reverse())
    refused("task 0 is damaged", lambda row: row["support"].pop())
    refused("task 0 is damaged", lambda row: row["query"][0].append(row["support"][0][0]))
    refused("task 0 is damaged", lambda row: row.update(query=None))


def test_nothing_is_not_saved(tmp_path):
    with pytest.raises(DataError, match="no tasks to save"):
        save_tasks(tmp_path / "a.parquet", [], made_pool(), MADE)
    with pytest.raises(DataError, match=r"provenance\.alpha"):
        save_tasks(tmp_path / "a.parquet", tasks_of(made_pool()), made_pool(), {"alpha": float("nan")})
    assert not (tmp_path / "a.parquet").exists()
