from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.fewshot_hard.candidates import Candidates
from pellucid.fewshot_hard.greedy import Board, best, greedy
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.prototypes import query_loss
from pellucid.fewshot_hard.reference import greedy_slow
from pellucid.fewshot_hard.swaps import climb
from pellucid.fewshot_hard.tasks import Task

DISTANCES = ["euclidean", "cosine"]


def make_pool(seed=0, classes=4, size=14, dim=5):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), size)
    embeddings = random.normal(size=(len(labels), dim)) + 1.5 * random.normal(size=(classes, dim))[labels]
    return Pool(
        embeddings.astype(np.float32), labels, tuple("abcdefgh"[:classes]), [str(i) for i in range(len(labels))]
    )


def make_task(pool, seed, way=3):
    random = np.random.default_rng(seed)
    classes = random.permutation(len(pool.classes))[:way]
    support, query = [], []
    for c in classes:
        shots, asked = random.integers(1, 4), random.integers(1, 6)
        rows = random.choice(pool.members[c], shots + asked, replace=False).tolist()
        support.append(tuple(rows[:shots]))
        query.append(tuple(rows[shots:]))
    return Task(tuple(classes.tolist()), tuple(support), tuple(query), seed=seed)


def loss_of(pool, task, support, distance):
    return float(query_loss(pool, [replace(task, support=support)], distance)[0])


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rounds", [1, 3])
def test_fast_and_slow_choose_the_same_images(distance, sign, rounds):
    pool = make_pool()
    tasks = [make_task(pool, seed, way=2 + seed % 3) for seed in range(6)]
    candidates = Candidates(pool, tasks, distance)
    for task in tasks:
        fast = greedy(candidates, task, distance, sign, rounds)
        assert fast == greedy_slow(candidates, task, distance, sign, rounds)


@pytest.mark.parametrize("distance", DISTANCES)
def test_without_kept_products_the_same(distance, monkeypatch):
    pool = make_pool(1)
    task = make_task(pool, 3)
    kept = greedy(Candidates(pool, [task], distance), task, distance)
    monkeypatch.setattr("pellucid.fewshot_hard.candidates._GRAM", 0)
    assert greedy(Candidates(pool, [task], distance), task, distance) == kept


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), distance=st.sampled_from(DISTANCES), sign=st.sampled_from([1, -1]))
def test_rounds_never_go_back(seed, distance, sign):
    pool = make_pool(seed)
    task = make_task(pool, seed)
    candidates = Candidates(pool, [task], distance)
    reached = [loss_of(pool, task, task.support, distance)]
    for rounds in (1, 2, 5):
        reached.append(loss_of(pool, task, greedy(candidates, task, distance, sign, rounds), distance))
    steps = sign * np.diff(reached)
    assert (steps >= -1e-9 * (1 + np.abs(reached[1:]))).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_board_tells_the_loss_of_every_swap(distance):
    pool = make_pool(2)
    task = make_task(pool, 5)
    candidates = Candidates(pool, [task], distance)
    board = Board(candidates, task, distance)
    board.place(candidates.start(task, board.allowed))
    assert board.loss == pytest.approx(loss_of(pool, task, task.support, distance), rel=1e-10)
    for label, images in enumerate(board.images):
        for slot in range(task.shots[label]):
            every = board.losses(label, slot)
            some = np.flatnonzero(board.allowed[label])[::2]
            np.testing.assert_allclose(board.losses(label, slot, some), every[some], rtol=1e-12)
            for place in np.flatnonzero(board.allowed[label]):
                support = [list(rows) for rows in task.support]
                if place in np.delete(board.picks[label], slot):
                    continue
                support[label][slot] = int(images.rows[place])
                wanted = loss_of(pool, task, tuple(map(tuple, support)), distance)
                assert every[place] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
def test_after_many_moves_the_board_is_what_it_is_when_set_anew(distance):
    pool = make_pool(3)
    task = make_task(pool, 1)
    candidates = Candidates(pool, [task], distance)
    moved, fresh = Board(candidates, task, distance), Board(candidates, task, distance)
    moved.place(candidates.start(task, moved.allowed))
    random = np.random.default_rng(0)
    for _ in range(200):
        label = int(random.integers(task.way))
        free = moved.allowed[label].copy()
        free[moved.picks[label]] = False
        moved.put(label, int(random.integers(task.shots[label])), int(random.choice(np.flatnonzero(free))))
    fresh.place(moved.picks)
    assert moved.loss == pytest.approx(fresh.loss, rel=1e-10)


def test_many_queries_multiply_without_overflow():
    pool = make_pool(4, classes=2, size=1300, dim=3)
    task = Task((0, 1), ((0,), (1300,)), (tuple(range(1, 1200)), tuple(range(1301, 2500))))
    candidates = Candidates(pool, [task], "euclidean")
    board = Board(candidates, task, "euclidean")
    board.place(candidates.start(task, board.allowed))
    place = int(np.flatnonzero(board.allowed[0])[-1])
    support = ((int(board.images[0].rows[place]),), (1300,))
    assert board.losses(0, 0)[place] == pytest.approx(loss_of(pool, task, support, "euclidean"), rel=1e-9)


def test_best_takes_the_first_of_equals_and_stays_without_gain():
    places, free = np.array([0, 2, 3, 5]), np.ones(6, dtype=bool)
    assert best(np.array([1.0, 3.0, 3.0 - 1e-10, 2.0]), places, 0, free) == 2
    assert best(np.array([1.0, 3.0 - 1e-10, 3.0, 2.0]), places, 0, free) == 2
    assert best(np.array([3.0, 3.0 + 1e-10, 1.0, 2.0]), places, 0, free) == 0
    free[2] = False
    assert best(np.array([1.0, 9.0, 2.0, 5.0]), places, 0, free) == 5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), distance=st.sampled_from(DISTANCES), sign=st.sampled_from([1, -1]))
def test_climbs_never_lose_and_end_at_valid_supports(seed, distance, sign):
    pool = make_pool(seed, size=60)
    random = np.random.default_rng(seed)
    # Up to 20 shots, of which some leave at once.
    shots = random.integers(1, 21, size=3)
    rows = [random.permutation(pool.members[c]).tolist() for c in range(3)]
    task = Task(
        (0, 1, 2),
        tuple(tuple(r[:k]) for r, k in zip(rows, shots, strict=True)),
        tuple(tuple(r[20:25]) for r in rows),
    )
    candidates = Candidates(pool, [task], distance)
    board = Board(candidates, task, distance, sign)
    starts = [candidates.start(task, board.allowed)]
    free = [np.flatnonzero(allowed) for allowed in board.allowed]
    for _ in range(3):
        starts.append([random.choice(each, k, replace=False) for each, k in zip(free, shots, strict=True)])
    before = [loss_of(pool, task, candidates.rows(task, start), distance) for start in starts]
    climbed, worth = climb(board, starts)
    supports = [candidates.rows(task, [each[b] for each in climbed]) for b in range(4)]
    after = [loss_of(pool, task, support, distance) for support in supports]
    np.testing.assert_allclose(sign * worth, after, rtol=1e-9, atol=1e-12)
    assert (sign * np.subtract(after, before) >= -1e-9 * (1 + np.abs(before))).all()
    shown = {row for query in task.query for row in query}
    for support in supports:
        assert not shown & {row for rows in support for row in rows}


def test_the_tangent_lies_below_the_loss():
    """What an exchange does to the tangent is the least that it does to the loss: the climb's ground."""
    pool = make_pool(6)
    task = make_task(pool, 2)
    candidates = Candidates(pool, [task], "euclidean")
    board = Board(candidates, task, "euclidean")
    board.place(candidates.start(task, board.allowed))
    few = partial(board.promising, width=3)
    for label in range(task.way):
        assert len(few(label)) == 3
        assert board.allowed[label][few(label)].all()
    climbed, worth = climb(board, [board.picks])
    assert worth[0] > board.loss
    assert [len(each[0]) for each in climbed] == list(task.shots)
