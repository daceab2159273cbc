"""What modules hold beside the numbers in their tensors, put back as it was."""

from typing import Any

from torch import nn

# Whose entries may be replaced, as `self.running_mean = ...` does.
_TABLES = ("_parameters", "_buffers", "_modules")


class Attributes:
    """The attributes of a module and of all modules inside it, as they are now.

    A counter, a hidden state, a flag: what a training step sets, the next run of the step
    must not find. What an attribute holds is not copied: a list that grows stays grown.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._saved: list[tuple[nn.Module, dict[str, Any], list[dict[str, Any]]]] = [
            (part, _plain(part), [dict(vars(part)[table]) for table in _TABLES])
            for part in module.modules()
        ]

    def restore(self) -> None:
        """Set all attributes as they were, and take away those that are new."""
        for part, plain, tables in self._saved:
            for name in _plain(part).keys() - plain.keys():
                del vars(part)[name]
            vars(part).update(plain)
            for table, entries in zip(_TABLES, tables, strict=True):
                vars(part)[table].clear()
                vars(part)[table].update(entries)


def _plain(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _TABLES}
