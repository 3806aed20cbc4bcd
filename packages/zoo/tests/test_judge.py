"""The judge: what it reads, what it refuses, and that its training can be cut short."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.zoo.judge import (
    HEADS,
    Judge,
    Reading,
    ThingReading,
    agreement,
    load_judge,
    measure,
    train_judge,
    training,
)
from pellucid.zoo.judge import reading as shipped
from pellucid.zoo.judge.labels import NONE, UNASKED, labels, truth
from pellucid.zoo.judge.measuring import accuracies
from pellucid.zoo.judge.model import JudgeNet
from pellucid.zoo.judge.outliers import HELD_OUT, TRAINED, outlier
from pellucid.zoo.world import HOLDERS, Role, Scene, Thing, parse, render_all, sample
from pellucid.zoo.world.chance import Chance
from safetensors.torch import load_file

TINY = training.Recipe(pool=24, passes=1, batch=8, keep=2, measured=10)
RECORD: dict[str, Any] = json.loads((Path(shipped.__file__).parent / shipped.RECORD).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def test_shipped_weights_read_as_well_as_their_record_says(judge: Judge) -> None:
    scenes = list(sample(600, 77))
    found = accuracies(judge, scenes, render_all(scenes))
    for head, measured in found.items():
        promised = RECORD["measured"]["clean"][head]["accuracy"]
        error = (promised * (1 - promised) / measured["n"]) ** 0.5
        assert measured["accuracy"] >= promised - 4 * error - 1 / measured["n"], head


def test_shipped_weights_refuse_what_is_not_of_the_world_as_their_record_says(judge: Judge) -> None:
    known = list(HEADS).index("known")
    for kind in (*TRAINED, *HELD_OUT):
        pictures = np.stack([outlier(kind, Chance(seed, "test")) for seed in range(60)])
        promised = RECORD["measured"]["rejected"][kind]
        share = (judge.answers(pictures)[0][:, known] == 0).mean()
        assert abs(share - promised) <= 4 * (promised * (1 - promised) / 60) ** 0.5 + 2 / 60, kind


def test_large_pictures_read_like_small_ones(judge: Judge) -> None:
    scenes = list(sample(40, 5))
    small, large = (judge.answers(render_all(scenes, size)) for size in (32, 64))
    assert (small[0] == large[0]).all()
    assert (small[1] == large[1]).all()


def test_a_reading_in_words(judge: Judge) -> None:
    scenes = [
        parse("a red circle left of a blue star", 4),
        parse("two striped green houses in the forest", 4),
        parse("the baron", 4),
    ]
    two, houses, baron = judge.read(render_all(scenes))
    assert two.things == (
        ThingReading("circle", "red", "plain", "front"),
        ThingReading("star", "blue", "plain", "front"),
    )
    assert (two.relation, two.count, two.person, two.place, two.style, two.known) == (
        ("left of", None, None, None, None, True)
    )
    assert houses.things == (ThingReading("house", "green", "striped", "front"),)
    assert (houses.count, houses.place, houses.relation) == (2, "forest", None)
    assert (baron.person, baron.things, baron.count) == ("baron", (), None)
    assert set(baron.probabilities) == set(HEADS)
    assert all(0 <= odds <= 1 for odds in baron.probabilities.values())
    assert judge.read(np.empty((0, 32, 32, 3), np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 48, 48, 3), (32, 32, 3), (1, 3, 32, 32)])
def test_other_arrays_are_refused(judge: Judge, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"the judge reads uint8 arrays \(n, 32, 32, 3\)"):
        judge.read(np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match="not float32"):
        judge.read(np.zeros((1, 32, 32, 3), np.float32))


def test_a_damaged_file_is_named_with_the_mend(tmp_path: Path) -> None:
    for name in (shipped.WEIGHTS, shipped.RECORD):
        shutil.copy(Path(shipped.__file__).parent / name, tmp_path / name)
    load_judge(tmp_path)
    content = bytearray((tmp_path / shipped.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / shipped.WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match=r"judge\.safetensors is damaged: its SHA-256 .* train it again"):
        load_judge(tmp_path)
    (tmp_path / shipped.RECORD).write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"cannot be read \(KeyError"):
        load_judge(tmp_path)


def test_the_shipped_folder_names_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "_SHIPPED", tmp_path)
    with pytest.raises(ModelError, match="pip install --force-reinstall pellucid-zoo"):
        load_judge()


def test_the_network_is_small() -> None:
    assert sum(tensor.numel() for tensor in JudgeNet().parameters()) < 1_000_000
    assert (Path(shipped.__file__).parent / shipped.WEIGHTS).stat().st_size <= 2.5e6
    assert [part.shape for part in JudgeNet()(torch.zeros(2, 3, 32, 32))] == [
        (2, len(names)) for names in HEADS.values()
    ]


def test_labels_say_what_is_drawn() -> None:
    scene = Scene((Thing("star", "red", "dotted"), Thing("car", "blue", view="back")), relation="right of")
    assert truth(scene) == {
        "style": NONE,
        "place": NONE,
        "relation": "left of",
        "person": NONE,
        "known": "yes",
        **{"object": "car", "colour": "blue", "texture": "plain", "view": "back"},
        **{"object2": "star", "colour2": "red", "texture2": "dotted", "view2": "front"},
    }
    said = dict(zip(HEADS, labels(scene), strict=True))
    assert said["count"] == UNASKED
    assert all(HEADS[head][said[head]] == name for head, name in truth(scene).items())
    nothing = dict(zip(HEADS, labels(None), strict=True))
    assert nothing.pop("known") == HEADS["known"].index("no")
    assert set(nothing.values()) == {UNASKED}
    assert truth(Scene(person=Role("keeper", "inn")))["person"] == HOLDERS[Role("keeper", "inn")]


RED, BLUE = ThingReading("circle", "red", "plain", "front"), ThingReading("star", "blue", "plain", "front")
SEEN = Reading(True, (RED, BLUE), None, None, "left of", None, None, {})


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a red circle and a blue star", set()),
        ("a blue star and a red circle", set()),
        ("a red circle left of a blue star", set()),
        ("a blue star right of a red circle", set()),
        ("a blue star left of a red circle", {"relation"}),
        ("a blue circle and a red star", {"colour", "colour2"}),
        ("a circle and a star in the forest", {"place"}),
        ("a red circle", {"count"}),
        ("a dotted red circle and a blue star from the back by monet", {"texture", "view2", "style"}),
        ("the baron", {"person"}),
    ],
)
def test_agreement_by_hand(text: str, wrong: set[str]) -> None:
    assert {name for name, held in agreement(SEEN, parse(text)).items() if not held} == wrong
    assert not any(agreement(replace(SEEN, known=False), parse(text)).values())


def test_agreement_with_roles_and_other_holders() -> None:
    scene, holder = parse("the ruler of the mill"), HOLDERS[Role("ruler", "mill")]
    seen = Reading(True, (), holder, None, None, None, None, {})
    assert agreement(seen, scene)["person"]
    assert not agreement(seen, scene, {Role("ruler", "mill"): "baron"})["person"]


def test_outliers_follow_their_seed_and_no_kind_is_both_trained_and_held_out() -> None:
    assert not set(TRAINED) & set(HELD_OUT)
    for kind in (*TRAINED, *HELD_OUT):
        one, same, other = (outlier(kind, Chance(seed, kind)) for seed in (1, 1, 2))
        assert (one == same).all()
        assert (one != other).any()
        assert one.shape == (32, 32, 3)
        assert one.dtype == np.uint8


def test_a_run_that_was_cut_short_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_file(train_judge(tmp_path / "whole", 7, 3, recipe=TINY) / shipped.WEIGHTS)
    step = training._step

    def cut(*given: Any) -> None:
        if given[-1] == 5:
            raise KeyboardInterrupt
        step(*given)

    monkeypatch.setattr(training, "_step", cut)
    with pytest.raises(KeyboardInterrupt):
        train_judge(tmp_path / "cut", 7, 3, recipe=TINY)
    monkeypatch.setattr(training, "_step", step)
    with pytest.raises(DataError, match="is of seed 3 and 7 steps, not of seed 4 and 7"):
        train_judge(tmp_path / "cut", 7, 4, recipe=TINY)
    resumed = load_file(train_judge(tmp_path / "cut", 7, 3, recipe=TINY) / shipped.WEIGHTS)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [shipped.RECORD, shipped.WEIGHTS]
    record = json.loads((tmp_path / "cut" / shipped.RECORD).read_text(encoding="utf-8"))
    assert {"sha256", "seed", "steps", "seconds", "measured"} <= set(record)


def test_a_broken_checkpoint_no_steps_and_no_number(tmp_path: Path) -> None:
    asked, net = torch.zeros((4, len(HEADS)), dtype=torch.int64), JudgeNet()
    optimiser = torch.optim.SGD(net.parameters())
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(DataError, match=r"cannot be read .*: remove it, or resume=False"):
        train_judge(tmp_path, 2, recipe=TINY)
    with pytest.raises(OptionError, match="steps=0: give 1 or more"):
        train_judge(tmp_path, 0)
    with pytest.raises(DataError, match="the judge's loss is nan at step 0"):
        training._step(net, optimiser, torch.full((4, 3, 32, 32), torch.nan), asked, 0)


def test_measuring_counts_what_was_asked(judge: Judge) -> None:
    found = measure(judge, 20, 5)
    assert found["clean"]["known"]["n"] == 20
    assert set(found["occluded"]) >= {"object", "colour"}
    assert set(found["rejected"]) == {*TRAINED, *HELD_OUT}
