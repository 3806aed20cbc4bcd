from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.samplers import sample_tasks


def pool_of(sizes, *, contents=None, annotations=None, classes=None, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    n = len(labels)
    return Pool(
        random.normal(size=(n, 3)).astype(np.float32),
        labels[order],
        classes or tuple(f"class {i}" for i in range(len(sizes))),
        [str(i) for i in range(n)],
        annotations or {},
        np.arange(n, dtype=np.uint64) if contents is None else contents,
    )


def rows_of(task):
    support = [row for rows in task.support for row in rows]
    return support, [row for rows in task.query for row in rows]


def test_fixed_tasks_have_the_numbers_asked_for():
    pool = pool_of([12] * 8)
    for task in sample_tasks(pool, 20, way=6, shot=3, query=4, seed=7):
        assert task.way == 6
        assert task.shots == (3,) * 6
        assert [len(rows) for rows in task.query] == [4] * 6
        assert (task.kind, task.method, task.seed) == ("default", "fixed", 7)
        for label, support, query in zip(task.classes, task.support, task.query, strict=True):
            assert set(pool.labels[list(support + query)]) == {label}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(2, 160), min_size=5, max_size=60),
    st.integers(0, 2**40),
)
def test_meta_dataset_tasks_keep_the_published_bounds(sizes, seed):
    pool = pool_of(sizes)
    for task in sample_tasks(pool, 4, "meta-dataset", seed=seed):
        n = np.array([sizes[label] for label in task.classes])
        queries = {len(rows) for rows in task.query}
        assert 5 <= task.way <= min(50, len(sizes))
        assert queries == {min(10, min(n) // 2)}
        q = queries.pop()
        assert all(1 <= k <= size - q for k, size in zip(task.shots, n, strict=True))
        # Floors only lower what proportions give: the size that was drawn is never exceeded.
        assert sum(task.shots) <= min(500, sum(min(100, size - q) for size in n))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=40, max_size=120),
    st.sampled_from(["fixed", "meta-dataset"]),
    st.integers(0, 1000),
)
def test_no_content_is_drawn_twice_whatever_the_duplicates(contents, sampler, seed):
    n = len(contents)
    labels = np.arange(n) % 5
    hashes = np.array(contents, dtype=np.uint64)
    pool = Pool(np.ones((n, 2), np.float32), labels, tuple("abcde"), [str(i) for i in range(n)], {}, hashes)
    first = {content: i % 5 for i, content in reversed(list(enumerate(contents)))}
    fewest = min(Counter(dict.fromkeys(range(5), 0) | Counter(first.values())).values())
    if fewest < (3 if sampler == "fixed" else 2):
        with pytest.raises(DataError, match="distinct images"):
            sample_tasks(pool, 1, sampler, way=5, shot=1, query=2, seed=seed)
        return
    tasks = sample_tasks(pool, 3, sampler, way=5, shot=1, query=2, seed=seed)
    for task in tasks:
        support, query = rows_of(task)
        drawn = hashes[support + query]
        assert len(set(drawn.tolist())) == len(drawn)


def test_a_duplicate_counts_once_also_across_classes():
    contents = np.array([0, 0, 1, 2, 0, 3, 4], dtype=np.uint64)
    pool = Pool(np.ones((7, 2), np.float32), np.array([0, 0, 0, 0, 1, 1, 1]), ("a", "b"), list("0123456"), {}, contents)
    seen = {row for task in sample_tasks(pool, 50, way=2, shot=1, query=1) for part in rows_of(task) for row in part}
    assert seen == {0, 2, 3, 5, 6}


def test_without_contents_equal_embeddings_are_one_image():
    embeddings = np.arange(12, dtype=np.float32).reshape(6, 2)
    embeddings[1] = embeddings[0]
    pool = Pool(embeddings, np.array([0, 0, 0, 1, 1, 1]), ("a", "b"), list("012345"))
    assert all(1 not in part for t in sample_tasks(pool, 30, way=2, shot=1, query=1) for part in rows_of(t))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**12), st.sampled_from(["fixed", "meta-dataset"]))
def test_tasks_repeat_to_the_bit_and_do_not_depend_on_the_count(seed, sampler):
    pool = pool_of([20, 25, 30, 22, 40, 21])
    long = sample_tasks(pool, 6, sampler, seed=seed)
    assert sample_tasks(pool, 2, sampler, seed=seed) == long[:2]
    other = Pool(pool.embeddings * 3, pool.labels, pool.classes, pool.ids, {}, pool.contents)
    assert sample_tasks(other, 6, sampler, seed=seed) == long
    assert sample_tasks(pool, 6, sampler, seed=seed + 1) != long


def test_classes_and_images_are_drawn_evenly():
    pool = pool_of([10] * 10)
    tasks = sample_tasks(pool, 2000, way=5, shot=2, query=3, seed=1)
    classes = Counter(label for task in tasks for label in task.classes)
    support = Counter(row for task in tasks for row in rows_of(task)[0])
    # Binomial: 1000 and 200 expected, standard deviations 22 and 14 (rows: at most).
    assert all(abs(classes[label] - 1000) < 5 * 23 for label in range(10))
    assert all(abs(support[row] - 200) < 6 * 14 for row in range(len(pool)))


def test_meta_dataset_ways_are_uniform_and_large_classes_get_more_shots():
    pool = pool_of([20] * 4 + [200] * 4)
    tasks = sample_tasks(pool, 2000, "meta-dataset", seed=3)
    ways = Counter(task.way for task in tasks)
    assert set(ways) == {5, 6, 7, 8}
    assert all(abs(ways[w] - 500) < 5 * 20 for w in ways)
    shots = [(label >= 4, k) for task in tasks for label, k in zip(task.classes, task.shots, strict=True)]
    large = np.mean([k for big, k in shots if big])
    small = np.mean([k for big, k in shots if not big])
    assert large > 3 * small


def test_classes_keep_splits_apart():
    pool = pool_of([12] * 10)
    names = pool.classes[::2]
    used = {label for task in sample_tasks(pool, 40, "meta-dataset", classes=names) for label in task.classes}
    assert used == {0, 2, 4, 6, 8}


def test_within_draws_one_group_a_task_and_leaves_small_groups_out():
    classes = tuple(f"{group}/{i}" for group, n in (("Greek", 6), ("Latin", 7), ("tiny", 2)) for i in range(n))
    pool = pool_of([6] * 15, classes=classes)
    groups = Counter()
    for task in sample_tasks(pool, 60, "meta-dataset", within="/", seed=2):
        found = {pool.classes[label].split("/")[0] for label in task.classes}
        assert len(found) == 1
        groups.update(found)
    assert set(groups) == {"Greek", "Latin"}
    with pytest.raises(DataError, match=r"there are 7 classes of one group .* for tasks of 9"):
        sample_tasks(pool, 1, way=9, shot=1, query=1, within="/")


def test_query_where_holds_for_queries_and_leaves_the_support_free():
    sizes = [20] * 5
    front = np.random.default_rng(0).random(100) < 0.5
    pool = pool_of(sizes, annotations={"front": front})
    tasks = sample_tasks(pool, 50, shot=4, query=3, query_where={"front": True})
    support = np.concatenate([rows_of(task)[0] for task in tasks])
    query = np.concatenate([rows_of(task)[1] for task in tasks])
    assert front[query].all()
    assert 0.1 < front[support].mean() < 0.9
    with pytest.raises(OptionError, match="no annotation 'side': it has front"):
        sample_tasks(pool, 1, query_where={"side": True})
    none = pool_of(sizes, annotations={"front": np.zeros(100, bool)})
    with pytest.raises(DataError, match="class 'class 0' has 0 images with the query's annotations for 3 asked"):
        sample_tasks(none, 1, shot=4, query=3, query_where={"front": True})


def test_bad_requests_are_refused_in_one_line():
    pool = pool_of([30, 30, 4, 30, 30])
    with pytest.raises(DataError, match="class 'class 2' has 4 distinct images, fewer than 5 for support and 15"):
        sample_tasks(pool, 1)
    with pytest.raises(DataError, match="there are 5 classes for tasks of 6"):
        sample_tasks(pool, 1, way=6, shot=1, query=1)
    with pytest.raises(OptionError, match="no class 'cat'"):
        sample_tasks(pool, 1, classes=["class 0", "cat"])
    with pytest.raises(OptionError, match="the text 'class 0'"):
        sample_tasks(pool, 1, classes="class 0")
    with pytest.raises(OptionError, match="sampler is 'random'"):
        sample_tasks(pool, 1, "random")  # type: ignore[arg-type]
    for name, value in (("count", 0), ("seed", -1), ("way", 1), ("shot", 0), ("query", 0)):
        with pytest.raises(OptionError, match=f"{name} is {value}"):
            sample_tasks(pool, **({"count": 1} | {name: value}))
