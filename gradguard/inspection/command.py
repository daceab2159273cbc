"""One inspection from options to output: check them, pass, print, draw."""

from collections.abc import Callable

from gradguard.inspection.layers import Inspection
from gradguard.inspection.table import document, print_inspection
from gradguard.output import PICTURES, plain_console, writable


def inspect(
    make: Callable[[], Inspection], *, as_json: bool = False, figure: str | None = None
) -> None:
    """Make the inspection, print it, draw it.

    Args:
        make: Passes a batch forward and backward; not called if an option is wrong.
        as_json: Whether to print JSON in place of a table.
        figure: File of the picture, if one is wanted.

    Raises:
        ConfigError: If an option is wrong, or there is nothing to inspect.
    """
    file = writable(figure, option="--figure", suffixes=PICTURES)
    inspection = make()
    if as_json:
        print(document(inspection))  # noqa: T201 (the console would wrap it)
    else:
        print_inspection(inspection, plain_console())
    if file:
        from gradguard.inspection.picture import draw  # noqa: PLC0415 (matplotlib is heavy)

        draw(inspection, file)
        stderr = plain_console(stderr=True)
        stderr.print(f"wrote {file}", soft_wrap=True)
