"""What may be done about a bad step."""

from typing import Literal, get_args

Action = Literal["record", "skip", "raise"]


def check_action(option: str, action: object) -> None:
    """Do nothing if an action is one.

    Raises:
        ValueError: If it is none.
    """
    if action not in get_args(Action):
        raise ValueError(
            f'{option} must be "record", "skip" or "raise", got {action!r}'
        )
