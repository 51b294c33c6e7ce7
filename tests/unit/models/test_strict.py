from dataclasses import dataclass
from typing import Any, Literal

import pytest

from models.strict import StrictError, build


@dataclass(frozen=True, kw_only=True)
class Square:
    kind: Literal["square"]
    side: float


@dataclass(frozen=True, kw_only=True)
class Disc:
    kind: Literal["disc"]
    radius: float

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError("radius must be positive")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    name: str
    shapes: tuple[Square | Disc, ...]
    counts: dict[str, int]
    note: str | None
    mode: Literal["fast", "slow"]


GOOD: dict[str, Any] = {
    "name": "a",
    "shapes": [{"kind": "disc", "radius": 2}, {"kind": "square", "side": 1.5}],
    "counts": {"x": 1},
    "note": None,
    "mode": "fast",
}


def test_nested_values_become_dataclasses() -> None:
    built = build(Drawing, GOOD, "drawing")
    assert built.shapes == (Disc(kind="disc", radius=2.0), Square(kind="square", side=1.5))
    assert isinstance(built.shapes[0], Disc)
    assert isinstance(built.shapes[0].radius, float)
    assert built.note is None
    assert build(Drawing, GOOD | {"note": "n"}, "drawing").note == "n"


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"surprise": 1}, "surprise"),
        ({"name": 3}, r"drawing\.name"),
        ({"note": 3}, r"drawing\.note"),
        ({"mode": "medium"}, r"drawing\.mode"),
        ({"counts": {"x": 1.0}}, r"drawing\.counts\.x"),
        ({"counts": {"x": True}}, r"drawing\.counts\.x"),
        ({"counts": []}, "counts"),
        ({"shapes": {}}, "shapes"),
        ({"shapes": [3]}, r"shapes\[0\]\.kind"),
        ({"shapes": [{"radius": 1}]}, r"shapes\[0\]\.kind"),
        ({"shapes": [{"kind": "star"}]}, r"\['disc', 'square'\]"),
        ({"shapes": [{"kind": "disc"}]}, "radius"),
        ({"shapes": [{"kind": "disc", "radius": -1}]}, "positive"),
        ({"shapes": [{"kind": "disc", "radius": "1"}]}, "radius"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(change: dict[str, Any], names: str) -> None:
    with pytest.raises(StrictError, match=names):
        build(Drawing, GOOD | change, "drawing")


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(StrictError, match="drawing"):
        build(Drawing, value, "drawing")
