"""A method of one object that is called in another way for a while."""

from collections.abc import Callable
from typing import Any


def shadow(owner: Any, name: str, call: Callable[..., Any]) -> Callable[[], None]:
    """Have `owner.name(*args)` call `call(method, *args)` instead; return the undo.

    A method that somebody else had given the owner is there again afterwards. Whoever has
    wrapped the shadow meanwhile keeps the method, as if there had never been one.

    Args:
        owner: Whose method; others of its class keep theirs.
        name: Of the method.
        call: Given the method as it was, and what the caller gives.
    """
    given = vars(owner).get(name)
    shadowed = _Shadow(owner, name, call)
    vars(owner)[name] = shadowed

    def undo() -> None:
        shadowed.call = None
        if vars(owner).get(name) is shadowed:
            del vars(owner)[name]
            if given is not None:
                vars(owner)[name] = given

    return undo


class _Shadow:
    """A method of an object, and what is called in its place."""

    def __init__(self, owner: Any, name: str, call: Callable[..., Any] | None) -> None:
        self._owner, self._name = owner, name
        self._method = getattr(owner, name)
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.call is None:
            return self._method(*args, **kwargs)
        return self.call(self._method, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the owner belongs to another fit: it has the method of its class.
        return getattr, (self._owner, self._name)
