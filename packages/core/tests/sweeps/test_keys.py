"""Keys: the same for the same content, another for any other, and stable for ever."""

import enum
import functools
import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pellucid.core.errors import OptionError
from pellucid.core.sweeps.keys import cell_key, cell_seed, digest, function_name


class Colour(enum.Enum):
    RED = 1


class Shade(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Point:
    x: int
    name: str
    device: str = field(default="cpu", compare=False)


def named() -> None:
    pass


def test_hand_computed() -> None:
    assert digest(None) == hashlib.sha256(b"N").hexdigest()
    assert (
        digest([1, "é", 2.5, True])
        == hashlib.sha256(b"l4:i1:1s2:\xc3\xa9f" + struct.pack(">d", 2.5) + b"T").hexdigest()
    )
    assert digest(Point(3, "a")) == hashlib.sha256(b"D5:Point2:s1:xi1:3s4:names1:a").hexdigest()
    array = np.array([[1, 2]], dtype="<i2")
    assert digest(array) == hashlib.sha256(b"a9:<i2(1, 2)\x01\x00\x02\x00").hexdigest()
    key = hashlib.sha256(b"l4:s3:m.fs1:1s1:zD5:Point2:s1:xi1:3s4:names1:a").hexdigest()
    assert cell_key("m.f", "1", "z", Point(3, "a")) == key
    assert cell_seed("00000102" + "f" * 56) == 258


def test_every_difference_counts() -> None:
    values: list[Any] = [
        *(
            None,
            True,
            False,
            0,
            1,
            -1,
            0.0,
            -0.0,
            1.0,
            "",
            "1",
            b"",
            b"1",
            Path("1"),
            [],
            [1],
            [[1]],
            [1, 1],
            {},
            {1: 1},
        ),
        *({"1": 1}, Colour.RED, Shade.RED, Point(1, "1"), Point(1, "2"), ["ab", "c"], ["a", "bc"], float("inf")),
        *(np.arange(4), np.arange(4.0), np.arange(4).reshape(2, 2), np.arange(4, dtype=np.int32), np.zeros(0)),
        *(torch.arange(4), torch.arange(4.0), torch.arange(4).reshape(2, 2), torch.zeros(4, dtype=torch.bfloat16)),
        *(torch.zeros(4, dtype=torch.float16), torch.zeros(()), torch.zeros(0), torch.zeros(1)),
    ]
    assert len({digest(value) for value in values}) == len(values)


def test_what_makes_no_difference() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest((1, 2)) == digest([1, 2])
    assert digest(Point(1, "a", "cuda:3")) == digest(Point(1, "a"))
    assert digest(np.float64(0.1)) == digest(0.1)
    assert digest(np.int32(7)) == digest(7)
    matrix = np.arange(6).reshape(2, 3)
    assert digest(np.asfortranarray(matrix)) == digest(matrix)
    weights = torch.arange(6.0).reshape(2, 3)
    assert digest(weights.T.contiguous().T.requires_grad_()) == digest(weights)
    assert digest(torch.tensor([1 + 2j]).conj()) == digest(torch.tensor([1 - 2j]))


@given(st.dictionaries(st.text(), st.lists(st.floats(allow_nan=False) | st.integers() | st.text())))
def test_order_of_dict_never_matters(content: dict[str, list[Any]]) -> None:
    assert digest(dict(reversed(content.items()))) == digest(content)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({1}, "builtins.set"),
        ({"a": [object()]}, "builtins.object"),
        (np.array([None]), "Python objects"),
        (torch.zeros(2, device="meta"), "meta"),
        (torch.eye(2).to_sparse(), "sparse"),
        (Point, "builtins.type"),
    ],
)
def test_unknown_types_are_named(value: Any, kind: str) -> None:
    with pytest.raises(OptionError, match=kind):
        digest(value)


def test_the_place_is_named() -> None:
    with pytest.raises(OptionError, match=r"value\['a'\]\[1\] is a builtins.object"):
        digest({"a": [1, object()]})


def test_functions_need_a_name() -> None:
    assert function_name(named) == f"{__name__}.named"
    for nameless in (lambda: None, functools.partial(named)):
        with pytest.raises(OptionError, match="define one with def"):
            function_name(nameless)
