from dataclasses import replace

import numpy as np
import pytest
from pellucid.core.errors import DataError
from pellucid.core.statistics import bootstrap_mean
from pellucid.fewshot_hard.explain import compare, composition
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.samplers import sample_tasks
from pellucid.fewshot_hard.tasks import Task


def made_pool(n=200, seed=0):
    random = np.random.default_rng(seed)
    marks = {"front": random.random(n) < 0.4, "blurred": random.random(n) < 0.1}
    return Pool(
        random.normal(size=(n, 3)).astype(np.float32),
        np.arange(n) % 4,
        tuple("abcd"),
        [str(i) for i in range(n)],
        marks,
    )


def shifted(pool, tasks, towards):
    """Give each task a support of images that have (or lack) the property "front", as far as there are any."""
    made = []
    for task in tasks:
        support = []
        for label, rows, query in zip(task.classes, task.support, task.query, strict=True):
            rest = [row for row in pool.members[label].tolist() if row not in query]
            rest.sort(key=lambda row: (pool.annotations["front"][row] != towards, row))
            support.append(tuple(rest[: len(rows)]))
        made.append(replace(task, support=tuple(support)))
    return made


def test_shares_by_hand():
    front = np.array([1, 1, 0, 0, 1, 0, 0, 0], dtype=bool)
    pool = Pool(np.eye(8, dtype=np.float32), np.array([0, 0, 0, 0, 1, 1, 1, 1]), ("a", "b"), list("01234567"),
                {"front": front})  # fmt: skip
    first = Task((0, 1), ((0, 1), (4,)), ((2,), (5, 6)))
    second = Task((0, 1), ((2,), (5,)), ((0, 1), (4, 6)))
    found = composition(pool, [first, second])
    assert found.annotations == ("front",)
    np.testing.assert_allclose(found.support.value, [(1 + 0) / 2])
    np.testing.assert_allclose(found.query.value, [(0 + 3 / 4) / 2])
    np.testing.assert_allclose(found.gaps, [[1.0], [-0.75]])
    np.testing.assert_allclose(found.gap.value, [0.125])
    np.testing.assert_allclose(found.size.value, [0.875])


def test_intervals_are_those_of_a_plain_bootstrap():
    pool = made_pool()
    tasks = sample_tasks(pool, 40, way=3, shot=5, query=6)
    found = composition(pool, tasks, seed=3)
    alone = bootstrap_mean(np.abs(found.gaps[:, 0]), seed=3)
    assert found.size[0].value == pytest.approx(alone.value)
    assert found.size[0].low == pytest.approx(alone.low, abs=0.01)
    assert found.size[0].high == pytest.approx(alone.high, abs=0.01)


def test_a_mismatch_that_was_planted_is_found():
    pool = made_pool()
    tasks = sample_tasks(pool, 60, way=4, shot=5, query=8, query_where={"front": True})
    hard, easy = shifted(pool, tasks, False), shifted(pool, tasks, True)
    of_hard, of_easy = composition(pool, hard), composition(pool, easy)
    assert of_hard.gap[0].value == pytest.approx(-1)
    assert of_easy.size[0].value < 0.2
    found = compare(of_hard, of_easy)
    assert found.paired
    assert found.difference[0].low > 0.7
    assert found.overall.low > 0.3
    assert not compare(of_hard, composition(pool, sample_tasks(pool, 60, way=4, shot=5, query=8))).paired


def test_same_tasks_have_no_difference():
    pool = made_pool()
    found = composition(pool, sample_tasks(pool, 30, way=3, shot=2, query=3))
    none = compare(found, found)
    assert all(each.value == each.low == each.high == 0 for each in (*none.difference, none.overall))


def test_without_annotations_it_says_what_to_give():
    pool = made_pool()
    bare = Pool(pool.embeddings, pool.labels, pool.classes, pool.ids)
    tasks = sample_tasks(pool, 2, way=3, shot=2, query=3)
    with pytest.raises(DataError, match="no annotations to compare: give one with a column"):
        composition(bare, tasks)
    with pytest.raises(DataError, match="no tasks to compare"):
        composition(pool, [])
    other = Pool(pool.embeddings, pool.labels, pool.classes, pool.ids, {"dim": pool.annotations["front"]})
    with pytest.raises(DataError, match="one composition is of front, blurred, the other of dim"):
        compare(composition(pool, tasks), composition(other, tasks))
