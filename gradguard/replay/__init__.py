"""A bad step run again, to the operation that broke it.

The package is called as a function: `gradguard.replay("bad-step-41-rank-0.pt")`.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A module that does, when called, what `gradguard.replay.again.replay` does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from gradguard.replay.again import replay  # noqa: PLC0415 (torch is heavy)

        return replay(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
