"""The renderer: the same pictures everywhere, and each attribute changes what it should."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pellucid.core.cli import main
from pellucid.core.errors import OptionError
from pellucid.zoo.world import HOLDERS, PEOPLE, Role, Scene, Thing, contact_sheet, render, render_all, sample, settled
from pellucid.zoo.world.chance import Chance, noise, smooth_noise
from pellucid.zoo.world.vocabulary import COLOURS, OBJECTS, PLACES, STYLES, TEXTURES, VIEWS

PINNED = "3326378a4524eaf7f380ff742bb8acaccdfcc75e8869a80b3cc4c6be1994f4b6"
CIRCLE = Scene((Thing("circle", "red"),), seed=3)


def hundred() -> list[Scene]:
    """A hundred fixed scenes, some with a bar, a blur or a role."""
    scenes = list(sample(80, 5))
    things = [scene for scene in scenes if scene.things]
    hidden = [replace(scene, things=tuple(replace(thing, occluded=True) for thing in scene.things)) for scene in things]
    roles = [Scene(person=role, seed=seed) for seed, role in enumerate(list(HOLDERS)[:4])]
    return [*scenes, *hidden[:8], *(replace(scene, blur=True) for scene in scenes[:8]), *roles]


def test_a_hundred_pictures_have_the_pinned_hash() -> None:
    digest = hashlib.sha256()
    for scene in hundred():
        digest.update(render(scene).tobytes() + render(scene, 64).tobytes())
    assert len(hundred()) == 100
    assert digest.hexdigest() == PINNED


def test_the_small_picture_is_the_mean_of_the_large_one() -> None:
    for scene in hundred()[::7]:
        large = render(scene, 64).astype(int)
        slow = np.array([[large[y : y + 2, x : x + 2].sum((0, 1)) for x in range(0, 64, 2)] for y in range(0, 64, 2)])
        assert (render(scene) == (slow + 2) // 4).all()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_has_its_colour(colour: str) -> None:
    picture = render(Scene((Thing("square", colour),), seed=1), 64).reshape(-1, 3).astype(int)
    for name, value in COLOURS.items():
        near = (abs(picture - value).max(1) <= 13).mean()
        assert (near > 0.15) == (name == colour)


@pytest.mark.parametrize(
    "changed",
    [
        *(replace(CIRCLE, things=(Thing(name, "red"),)) for name in OBJECTS[1:]),
        *(replace(CIRCLE, things=(Thing("circle", name),)) for name in list(COLOURS)[1:]),
        *(replace(CIRCLE, things=(Thing("circle", "red", name),)) for name in TEXTURES[1:]),
        *(replace(CIRCLE, things=(Thing("circle", "red", view=name),)) for name in VIEWS[1:]),
        *(replace(CIRCLE, things=(Thing("circle", "red", count=many),)) for many in (2, 3)),
        replace(CIRCLE, things=(Thing("circle", "red", occluded=True),)),
        *(replace(CIRCLE, place=name) for name in PLACES),
        *(replace(CIRCLE, style=name) for name in STYLES),
        replace(CIRCLE, blur=True),
        replace(CIRCLE, seed=4),
    ],
)
def test_every_attribute_shows(changed: Scene) -> None:
    one, other = render(CIRCLE).astype(int), render(changed).astype(int)
    assert (abs(one - other).max(2) > 24).sum() >= 12  # of 1024 pixels


def test_relations_are_where_they_say() -> None:
    red, blue = Thing("circle", "red"), Thing("square", "blue")
    for relation, axis, sign in (("left of", 1, -1), ("right of", 1, 1), ("above", 0, -1), ("below", 0, 1)):
        for seed in range(4):
            picture = render(Scene((red, blue), relation=relation, seed=seed), 64).astype(int)
            middles = [np.argwhere(abs(picture - COLOURS[name]).max(2) <= 13).mean(0) for name in ("red", "blue")]
            assert (middles[0] - middles[1])[axis] * sign > 16


def test_settled_scenes_leave_nothing_open_and_look_alike() -> None:
    for scene in [*hundred()[::5], Scene((Thing("star"), Thing("star")), seed=2)]:
        whole = settled(scene)
        assert settled(whole) == whole
        assert all(thing.colour for thing in whole.things)
        assert whole.relation in ((None,) if len(whole.things) < 2 else ("left of", "above"))
        assert len({(thing.object, thing.colour) for thing in whole.things}) == len(whole.things)
        assert (render(whole) == render(scene)).all()


def test_a_role_is_drawn_as_its_holder_and_a_caller_may_say_who() -> None:
    role = Role("ruler", "mill")
    scene = Scene(person=role, seed=9)
    assert (render(scene) == render(Scene(person=HOLDERS[role], seed=9))).all()
    former = next(name for name in PEOPLE if name != HOLDERS[role])
    assert (render(scene, holders={role: former}) == render(Scene(person=former, seed=9))).all()
    with pytest.raises(OptionError, match="the table of holders lacks"):
        render(scene, holders={})
    with pytest.raises(OptionError, match="'emperor', nobody of Tinyworld: it has baron, "):
        render(scene, holders={role: "emperor"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Thing("zebra"), "no object 'zebra': it has circle"),
        (lambda: Thing("circle", "teal"), "no colour 'teal'"),
        (lambda: Thing("circle", count=4), "no count 4"),
        (lambda: Thing("circle", texture="wool"), "no texture 'wool'"),
        (lambda: Thing("circle", view="top"), "no view 'top'"),
        (lambda: Scene(), "a scene of 0 things"),
        (lambda: Scene((Thing("star"),), person="baron"), "a scene of 1 things"),
        (lambda: Scene(person="emperor"), "no person 'emperor'"),
        (lambda: Scene((Thing("star"),), relation="above"), "needs two things"),
        (lambda: Scene((Thing("star", count=2), Thing("car"))), "leave count=1"),
        (lambda: Scene((Thing("star", "red"), Thing("star", "red", "dotted"))), "both things are a red star"),
        (lambda: Scene((Thing("star"), Thing("car")), relation="near"), "no relation 'near'"),
        (lambda: Scene((Thing("star"),), place="moon"), "no place 'moon'"),
        (lambda: Scene((Thing("star"),), style="picasso"), "no style 'picasso'"),
        (lambda: render(CIRCLE, 48), "not at 48"),
    ],
)
def test_what_cannot_be_is_named(make: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()  # type: ignore[operator]


def test_chance_is_splitmix64_and_noise_its_vector() -> None:
    # The first outputs of the reference implementation from the state 1234567.
    chance = Chance(0, "")
    chance._state = 1234567
    assert [chance.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert noise(5, 3, 4, 2).shape == (3, 4, 2)
    chance = Chance(5, "")
    assert noise(5, 6).tolist() == [chance.bits() >> 56 for _ in range(6)]
    assert smooth_noise(1, 16, 4, 2)[::4, ::4].tolist() == noise(1, 6, 6, 2)[:4, :4].tolist()
    numbers = [Chance(seed, "x").below(7) for seed in range(700)]
    assert set(numbers) == set(range(7))
    assert sorted(Chance(1, "y").shuffled(range(9))) == list(range(9))


def test_contact_sheets_keep_every_picture() -> None:
    pictures = render_all(hundred()[:5])
    sheet = contact_sheet(pictures, columns=3, scale=2, gap=1)
    assert sheet.shape == (2 * (2 * 33 + 1), 2 * (3 * 33 + 1), 3)
    assert (sheet[2 * 34 : 2 * 66 : 2, 2 * 34 : 2 * 66 : 2] == pictures[4]).all()


def test_importing_the_zoo_and_the_world_is_light() -> None:
    code = (
        "import sys, pellucid.zoo, pellucid.zoo.world, pellucid.zoo.judge;"
        "print([name for name in ('torch', 'numpy', 'PIL', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-W", "error", "-c", code], text=True).strip() == "[]"


def test_the_command_draws_a_caption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    sheet = tmp_path / "new" / "sheet.png"
    words = ["zoo", "render", "--caption", "a red circle and a blue star", "-n", "3", "--out", str(sheet)]
    assert main(words) == 0
    with Image.open(sheet) as held:
        assert held.size == ((3 * 66 + 2) * 4, (66 + 2) * 4)
    capsys.readouterr()
    assert main([*words[:3], "a red unicorn", "--out", str(sheet)]) == 2
    assert "unicorn" in capsys.readouterr().err
