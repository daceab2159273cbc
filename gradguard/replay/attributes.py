"""What modules hold beside the numbers in their tensors, put back as it was."""

from typing import Any

from torch import Generator, nn

# Whose entries may be replaced, as `self.running_mean = ...` does.
_TABLES = ("_parameters", "_buffers", "_modules")


class Attributes:
    """The attributes of a module and of all modules inside it, as they are now.

    A counter, a hidden state, a flag: what a training step sets, the next run of the step
    must not find. What an attribute holds is not copied: a list that grows stays grown.
    Only a `torch.Generator` goes back to the state it is in now.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._saved: list[tuple[nn.Module, dict[str, Any], list[dict[str, Any]]]] = [
            (part, _plain(part), [dict(vars(part)[table]) for table in _TABLES])
            for part in module.modules()
        ]
        self._generators = [
            (generator, generator.get_state())
            for generator in generators(module).values()
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
        for generator, state in self._generators:
            generator.set_state(state)


def generators(module: nn.Module) -> dict[str, Generator]:
    """Return the generators that a module and those inside it hold, by name."""
    return {
        f"{path}.{name}".lstrip("."): held
        for path, part in module.named_modules()
        for name, held in vars(part).items()
        if isinstance(held, Generator)
    }


def _plain(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _TABLES}
