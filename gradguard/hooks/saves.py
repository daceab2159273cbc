"""The instant before a checkpoint is written, whoever asks for it and wherever it goes.

For that there is no hook that could say no: `on_save_checkpoint` may change what is saved,
not whether. And a no in mid-save would leave the callback that asked with a file it takes
for saved, for which it deletes a good one. So the no ends the hook in which the callback
asked, and the callback is put back to before it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gradguard.hooks.overrides import overrides
from gradguard.hooks.shadow import shadow

Write = Callable[[str], None]
"""Writes a checkpoint to a path."""


class Save(Protocol):
    """Writes a checkpoint, or does not."""

    def __call__(
        self,
        checkpoint: Mapping[str, Any],
        path: str,
        write: Write,
        *,
        by_callback: bool,
    ) -> bool:
        """Return whether the checkpoint is saved at its path, as it was to be.

        Args:
            checkpoint: What is to be saved.
            path: Where to.
            write: Writes it.
            by_callback: Whether a checkpoint callback asks for it, in one of its hooks.
        """


def at_saves(trainer: Any, save: Save, end: Callable[[], None]) -> None:
    """Have `save` do what a Trainer's strategy does to save, until it is torn down.

    On all processes, for all of them save. Not beyond the fit, however it ends.

    Args:
        trainer: Of either namespace of Lightning, in a fit.
        save: In place of `strategy.save_checkpoint`.
        end: Called when nothing is saved any more.
    """
    saves = _Saves(save, end)
    saves.listen(trainer)


class _Refused(Exception):  # noqa: N818 (no error: it ends a hook, and nobody sees it)
    """A checkpoint is not saved where it was to be."""


class _Saves:
    """What stands between a Trainer and its checkpoints."""

    def __init__(self, save: Save, end: Callable[[], None]) -> None:
        self._save, self._end = save, end
        self._asked_by_callback = False
        self._undo: list[Callable[[], None]] = []

    def listen(self, trainer: Any) -> None:
        strategy = trainer.strategy
        self._undo = [
            shadow(strategy, "save_checkpoint", self._save_checkpoint),
            shadow(strategy, "teardown", self._teardown),
            *(
                shadow(callback, hook, self._hook_of(callback))
                for callback in trainer.checkpoint_callbacks
                for hook in _own_hooks(callback)
            ),
        ]

    def _save_checkpoint(
        self,
        save_checkpoint: Callable[..., None],
        checkpoint: Any,
        filepath: Any,
        storage_options: Any = None,
    ) -> None:
        asked = str(filepath)

        def write(path: str) -> None:
            where = filepath if path == asked else path  # a Path stays one
            save_checkpoint(checkpoint, where, storage_options=storage_options)

        by_callback = self._asked_by_callback
        saved = self._save(checkpoint, asked, write, by_callback=by_callback)
        if by_callback and not saved:
            raise _Refused

    def _hook_of(self, callback: Any) -> Callable[..., None]:
        def hook(method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
            put_back = _memory_of(callback)
            asked_before = self._asked_by_callback
            self._asked_by_callback = True
            try:
                method(*args, **kwargs)
            except _Refused:
                put_back()
            finally:
                self._asked_by_callback = asked_before

        return hook

    def _teardown(self, teardown: Callable[[], None]) -> None:
        while self._undo:
            self._undo.pop()()
        teardown()
        self._end()


def _own_hooks(callback: Any) -> list[str]:
    """Return the hooks in which a callback does something, and so may save."""
    hooks = [name for name in dir(callback) if name.startswith("on_")]
    return [name for name in hooks if overrides(callback, name)]


def _memory_of(callback: Any) -> Callable[[], None]:
    """Return what puts a callback's files and scores back to what they are now.

    Numbers go on: they are clocks and counters, by which the next save is due in its time
    and not at once.
    """
    known = dict(vars(callback))
    copies = {
        name: value.copy()
        for name, value in known.items()
        if isinstance(value, (dict, list, set))
    }

    def put_back() -> None:
        known.update(copies)
        for name, value in vars(callback).items():
            if not isinstance(value, (int, float)) and name in known:
                vars(callback)[name] = known[name]

    return put_back
