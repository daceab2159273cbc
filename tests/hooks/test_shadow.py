"""A method called in another way for a while, and what is left of that: nothing."""

import copy
import pickle
from typing import Any

from gradguard.hooks.shadow import shadow


class Owner:
    def double(self, number: int) -> int:
        return 2 * number


def more(method: Any, number: int) -> int:
    result: int = method(number) + 1
    return result


def test_shadow_is_called_with_the_method_and_what_the_caller_gives() -> None:
    owner = Owner()

    undo = shadow(owner, "double", more)

    assert owner.double(5) == 2 * 5 + 1
    undo()
    assert owner.double(5) == 2 * 5
    assert vars(owner) == {}


def test_method_that_somebody_gave_the_owner_is_there_again() -> None:
    owner = Owner()
    vars(owner)["double"] = own = lambda number: 3 * number

    undo = shadow(owner, "double", more)

    assert owner.double(5) == 3 * 5 + 1
    undo()
    assert vars(owner)["double"] is own


def test_whoever_has_wrapped_the_shadow_keeps_the_method() -> None:
    owner = Owner()
    undo = shadow(owner, "double", more)
    inner = owner.double
    vars(owner)["double"] = lambda number: -inner(number)

    undo()

    assert owner.double(5) == -(2 * 5)


def test_copies_of_the_owner_have_the_method_of_its_class() -> None:
    owner = Owner()
    shadow(owner, "double", more)

    for other in (copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
        assert other.double(5) == 2 * 5
        assert owner.double(5) == 2 * 5 + 1
