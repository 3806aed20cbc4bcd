import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, ModelError, OptionError, SweepError
from pellucid.core.statistics import bootstrap_difference, bootstrap_mean
from pellucid.fewshot_hard.backbones import load_backbone
from pellucid.fewshot_hard.classifiers import linear_accuracy
from pellucid.fewshot_hard.evaluation import Judge, Spec, _Backbones, _Tuning, evaluate
from pellucid.fewshot_hard.fine_tuning import FineTuning, fine_tuned_accuracy
from pellucid.fewshot_hard.images import load_images
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.prototypes import accuracy
from pellucid.fewshot_hard.samplers import sample_tasks
from pellucid.fewshot_hard.selection import harden
from pellucid.fewshot_hard.tasks import flat

CONV = "conv4:16/16"


@pytest.fixture(scope="module")
def images():
    return load_images("digits").subset(range(400))


def pool_of(images, scale=1.0):
    pixels = np.stack([np.asarray(each, dtype=np.float32).ravel() for each in images.read(range(len(images)))])
    # Half of the pixels, where a second backbone is wanted.
    kept = pixels if scale == 1.0 else pixels[:, ::2] * scale
    return Pool(kept / 255, images.labels, images.classes, images.ids, contents=images.contents)


@pytest.fixture(scope="module")
def pool(images):
    return pool_of(images)


@pytest.fixture(scope="module")
def tasks(pool):
    default = sample_tasks(pool, 12, way=3, shot=2, query=4, seed=1)
    return [*default, *harden(pool, default), *harden(pool, default, kind="easy")]


def test_scores_means_and_drops_are_those_of_each_classifier_by_itself(images, pool, tasks, tmp_path):
    judges = [Judge("whole", pool), Judge("half", pool_of(images, 0.5))]
    found = evaluate(tasks, judges, tmp_path, methods=("linear", "prototype"))
    expected = [
        (judge.name, method, place, value)
        for judge in judges
        for method, each in (("linear", linear_accuracy), ("prototype", accuracy))
        for place, value in enumerate(each(judge.pool, tasks).tolist())
    ]
    assert [(s.judge, s.method, s.task, s.accuracy) for s in found.scores] == expected
    assert [(s.kind, s.selector, s.way, s.shots) for s in found.scores[:36]] == [
        (t.kind, t.method, t.way, t.shots) for t in tasks
    ]
    values = {m: accuracy(pool, part).tolist() for m, part in zip("dhe", np.split(np.arange(36), 3), strict=True)
              for part in [[tasks[i] for i in part]]}  # fmt: skip
    means = {(m.kind): m for m in found.means if (m.judge, m.method) == ("whole", "prototype")}
    assert {kind: mean.estimate for kind, mean in means.items()} == {
        "default": bootstrap_mean(values["d"], 0),
        "hard": bootstrap_mean(values["h"], 0),
        "easy": bootstrap_mean(values["e"], 0),
    }
    assert {mean.tasks for mean in means.values()} == {12}
    drops = {d.kind: d for d in found.drops if (d.judge, d.method) == ("whole", "prototype")}
    assert drops["hard"].estimate == bootstrap_difference(values["d"], values["h"], 0, paired=True)
    assert drops["easy"].estimate == bootstrap_difference(values["d"], values["e"], 0, paired=True)
    assert len(found.drops) == 2 * 2 * 2


def test_a_second_run_computes_nothing_and_new_tasks_only_add(pool, tasks, tmp_path):
    judge = [Judge("pixels", pool)]
    first = evaluate(tasks[:20], judge, tmp_path)
    again = evaluate(tasks[:20], judge, tmp_path)
    assert (again.scores, again.means, again.drops) == (first.scores, first.means, first.drops)
    assert [s.done for s in again.summaries] == [0]
    more = evaluate(tasks[:24], judge, tmp_path)
    assert [(s.done, s.skipped) for s in more.summaries] == [(8, 40)]
    # Changed embeddings are other trials, and so are the tasks that use them.
    changed = pool.embeddings.copy()
    row = tasks[0].query[0][0]
    changed[row] += 1
    other = Pool(changed, pool.labels, pool.classes, pool.ids, contents=pool.contents)
    touched = sum(row in flat(t.support)[0] + flat(t.query)[0] for t in tasks[:24])
    assert 0 < touched < 24
    assert evaluate(tasks[:24], [Judge("pixels", other)], tmp_path).summaries[0].done == 2 * touched


def test_a_task_given_twice_and_one_without_its_default(pool, tasks, tmp_path):
    found = evaluate([tasks[0], tasks[0], tasks[13]], [Judge("pixels", pool)], tmp_path, methods=("prototype",))
    assert len(found.scores) == 3
    assert found.scores[0].accuracy == found.scores[1].accuracy
    assert found.drops == ()
    assert [(m.kind, m.tasks) for m in found.means] == [("default", 2), ("hard", 1)]


def test_images_are_embedded_where_there_is_no_pool(images, tasks, tmp_path):
    found = evaluate(tasks[:6], [Judge("raw", backbone="pixels")], tmp_path, images=images, methods=("prototype",))
    rows = [row for t in tasks[:6] for row in flat(t.support)[0] + flat(t.query)[0]]
    embeddings = np.zeros((len(images), load_backbone("pixels")(list(images.read([0]))).shape[1]), dtype=np.float32)
    embeddings[rows] = load_backbone("pixels")(list(images.read(rows)))
    expected = accuracy(Pool(embeddings, images.labels, images.classes, images.ids), tasks[:6])
    np.testing.assert_allclose([s.accuracy for s in found.scores], expected)


def test_fine_tuning_in_the_sweep_equals_a_direct_call(images, pool, tasks, tmp_path):
    tuning = FineTuning(steps=3, lr=1e-3)
    judge = Judge("conv", pool, CONV, "random")
    chosen = [tasks[0], tasks[12]]
    found = evaluate(chosen, [judge], tmp_path, methods=("finetune",), images=images, tuning=tuning)
    backbone = load_backbone(CONV, weights="random")
    for score, task in zip(found.scores, chosen, strict=True):
        given = []
        for part in (task.support, task.query):
            rows, labels = flat(part)
            given += [backbone.prepare(list(images.read(rows))), torch.tensor(labels)]
        assert score.accuracy == fine_tuned_accuracy(backbone.module, *given, tuning)
    again = evaluate(chosen, [judge], tmp_path, methods=("finetune",), images=images, tuning=tuning)
    assert (again.scores, [s.done for s in again.summaries]) == (found.scores, [0])
    assert [d.kind for d in found.drops] == ["hard"]


def test_a_classifier_that_fails_is_told_and_can_be_tried_again(images, pool, tasks, tmp_path):
    tuning = FineTuning(steps=2, lr=1e30)
    judge = [Judge("conv", pool, CONV, "random")]
    with pytest.raises(SweepError, match=r"1 of 1 trials are missing .*diverged.* lower lr"):
        evaluate(tasks[:1], judge, tmp_path, methods=("finetune",), images=images, tuning=tuning)


def test_a_worker_refuses_other_weights_than_the_keys_say(images, tmp_path):
    right = load_backbone(CONV, weights="random").revision
    specs = {"same": Spec(CONV, "random", right), "other": Spec(CONV, "random", "sha256:0")}
    backbones = _Backbones(_Tuning(FineTuning(), np.arange(2), images, specs, "cpu"))
    assert backbones.get("same") is backbones.get("same")
    for _ in range(2):
        with pytest.raises(ModelError, match="has other weights on a worker than here"):
            backbones.get("other")


def test_what_cannot_be_evaluated_is_told_at_once(images, pool, tasks, tmp_path):
    judge = Judge("pixels", pool)
    with pytest.raises(OptionError, match="0 tasks"):
        evaluate([], [judge], tmp_path)
    with pytest.raises(OptionError, match="two judges have one name"):
        evaluate(tasks, [judge, judge], tmp_path)
    with pytest.raises(OptionError, match="methods are nearest: choose"):
        evaluate(tasks, [judge], tmp_path, methods=("nearest",))
    with pytest.raises(OptionError, match="finetune of 'pixels' needs the images"):
        evaluate(tasks, [judge], tmp_path, methods=("finetune",), images=images)
    with pytest.raises(OptionError, match="judge 'x' has no pool"):
        evaluate(tasks, [Judge("x", backbone="pixels")], tmp_path)
    short = Pool(pool.embeddings[:30], pool.labels[:30], pool.classes, pool.ids[:30])
    with pytest.raises(DataError, match=r"a task uses row .* of 30 images"):
        evaluate(tasks, [Judge("short", short)], tmp_path)
    renamed = Pool(pool.embeddings, pool.labels, pool.classes, [f"x{i}" for i in range(len(pool))])
    with pytest.raises(DataError, match="other ids or another order"):
        evaluate(tasks, [judge, Judge("renamed", renamed)], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_workers_give_what_one_process_gives(images, pool, tasks, tmp_path):
    options = {"methods": ("prototype", "linear", "finetune"), "images": images, "tuning": FineTuning(2, 1e-3)}
    judges = [Judge("conv", pool, CONV, "random")]
    chosen = [tasks[0], tasks[12]]
    alone = evaluate(chosen, judges, tmp_path / "alone", **options)
    many = evaluate(chosen, judges, tmp_path / "many", workers=1, **options)
    assert many.scores == alone.scores
