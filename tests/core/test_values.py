"""Values with a cheap constructor behave as the frozen dataclasses that they are."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from controller.core.model import evolved, quick


@dataclass(frozen=True)
class Usual:
    a: int
    b: str = "x"
    c: tuple[int, ...] = ()


@quick
@dataclass(frozen=True)
class Quick:
    a: int
    b: str = "x"
    c: tuple[int, ...] = ()


@pytest.mark.parametrize("given", [{"a": 1}, {"a": 1, "b": "y"}, {"a": 2, "c": (3,)}])
def test_a_quick_value_has_the_fields_defaults_and_hash_of_a_usual_one(given):
    value = Quick(**given)
    assert vars(value) == vars(Usual(**given))
    assert value == Quick(**given)
    assert hash(value) == hash(Usual(**given))
    assert repr(value) == repr(Usual(**given)).replace("Usual", "Quick")


def test_a_quick_value_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Quick(1).a = 2


@pytest.mark.parametrize("given", [(), (1, "x", (), 4)])
def test_a_quick_value_asks_for_its_fields(given):
    with pytest.raises(TypeError):
        Quick(*given)


@pytest.mark.parametrize("kind", [Usual, Quick])
def test_what_evolved_gives_is_what_replace_gives(kind):
    value = kind(1, c=(2,))
    assert evolved(value, b="y") == replace(value, b="y")
    assert value == kind(1, c=(2,))


def test_only_plain_dataclasses_without_slots_are_made_quick():
    @dataclass(frozen=True, slots=True)
    class Slotted:
        a: int

    @dataclass(frozen=True)
    class Anew:
        a: list[int] = field(default_factory=list)

    @dataclass(frozen=True)
    class Checked:
        a: int

        def __post_init__(self) -> None:
            raise AssertionError

    for kind in (Slotted, Anew, Checked):
        with pytest.raises(TypeError, match=kind.__name__):
            quick(kind)
