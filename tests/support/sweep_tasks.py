"""Tasks for worker processes: a module that loads in no time, for each process does."""

import os
import time

from gradguard.errors import ConfigError


def double(number: int) -> int:
    """Return twice the number; 3 kills the process, 5 and 6 are mistakes."""
    if number == 3:
        os._exit(7)
    if number == 5:
        raise OSError("disk full")
    if number == 6:
        raise ConfigError("mistaken")
    return 2 * number


def sleep(seconds: int) -> int:
    """Take that long."""
    time.sleep(seconds)
    return seconds
