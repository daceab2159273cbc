"""Less of what Lightning prints: its warnings and its log."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.warnings import PossibleUserWarning

# Of both namespaces: a module to inspect may be of either.
_CHATTY = (
    "lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"
)  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Mute what Lightning tells every user of small models, until the context ends."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        # Between Lightning 2.6 and torch 2.9 or later; nothing a user could do.
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
        # A resumed run is a new one, in a directory of its own.
        warnings.filterwarnings("ignore", message="The dirpath has changed")
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
