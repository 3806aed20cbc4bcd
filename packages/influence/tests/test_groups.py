import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.influence.groups import FRACTIONS, class_groups, cluster_groups, random_groups

LABELS = np.arange(200) % 4
BLOBS = np.eye(4)[LABELS] * 20 + np.random.default_rng(0).normal(size=(200, 4))


def makers(sizes, **options):
    return [
        random_groups(200, sizes, **options),
        class_groups(LABELS, sizes, **options),
        cluster_groups(BLOBS, sizes, clusters=4, **options),
    ]


def test_sizes_are_counts_or_fractions_and_rows_are_distinct():
    for groups in makers((*FRACTIONS, 7), repeats=2, seed=3):
        assert [len(g.indices) for g in groups] == [
            count for size in (3, 10, 20, 40, 60, 80, 100, 120, 7) for count in (size, size)
        ]
        for group in groups:
            assert group.fraction == len(group.indices) / 200
            assert list(group.indices) == sorted(set(group.indices))
            assert 0 <= group.indices[0] <= group.indices[-1] < 200
            assert all(type(row) is int for row in group.indices)
    assert [groups[0].kind for groups in makers([5])] == ["random", "class", "cluster"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([1, 5, 20, 0.5]), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 5))
def test_a_group_depends_on_its_size_and_number_alone(sizes, repeats, seed):
    everything = makers([1, 5, 20, 0.5], repeats=3, seed=seed)
    for known, groups in zip(everything, makers(sizes, repeats=repeats, seed=seed), strict=True):
        assert {g.indices for g in groups} <= {g.indices for g in known}


def test_seeds_and_repeats_differ():
    assert len({g.indices for g in random_groups(200, [20], repeats=5)}) == 5
    assert random_groups(200, [20], seed=1) != random_groups(200, [20], seed=2)


def test_class_groups_are_of_one_class_while_they_fit():
    for group in class_groups(LABELS, [45], repeats=5):
        assert len(set(LABELS[list(group.indices)])) == 1
    # 50 points a class, of which 45 may go: 60 points are 45 and 15.
    for group in class_groups(LABELS, [60], repeats=5):
        counts = np.bincount(LABELS[list(group.indices)], minlength=4)
        assert sorted(counts) == [0, 0, 15, 45]
    for group in class_groups(LABELS, [60], share=1, repeats=5):
        assert sorted(np.bincount(LABELS[list(group.indices)], minlength=4)) == [0, 0, 10, 50]
    assert len(class_groups(LABELS, [199])[0].indices) == 199


def test_cluster_groups_are_the_nearest_to_a_centre():
    for group in cluster_groups(BLOBS, [50], clusters=4, repeats=5):
        assert len(set(LABELS[list(group.indices)])) == 1
    images = BLOBS.reshape(200, 2, 2)
    assert cluster_groups(images, [9], clusters=4) == cluster_groups(BLOBS, [9], clusters=4)


def test_bad_sizes_and_data():
    for size, message in ((0, "a group of 0"), (200, "a group of 200"), (1.0, "not a fraction"), (-0.1, "size -0.1")):
        with pytest.raises(OptionError, match=message):
            random_groups(200, [size])
    with pytest.raises(OptionError, match="repeats is 0"):
        random_groups(200, [5], repeats=0)
    with pytest.raises(OptionError, match="clusters is 300"):
        cluster_groups(BLOBS, [5], clusters=300)
    with pytest.raises(OptionError, match="share is 0"):
        class_groups(LABELS, [5], share=0)
    with pytest.raises(DataError, match="one class for each"):
        class_groups(BLOBS, [5])
    with pytest.raises(DataError, match="finite"):
        cluster_groups(BLOBS * np.nan, [5])
