"""The command line: `gradguard` train, report, replay, sweep, reproduce, inspect, configs.

Each command is a function whose arguments are its options; those that several commands
have are declared in `options`. What commands do is the library's, not done here.
"""

import sys
from typing import Annotated, Any, NoReturn

import typer

from gradguard import __version__
from gradguard.cli import (
    configs,
    help,
    inspect,
    replay,
    report,
    reproduce,
    sweep,
    train,
)
from gradguard.cli.streams import lost, outlast_readers
from gradguard.errors import BadStepError, ConfigError, Interrupted

# Every mistake in a command line is one; Typer exports the class by no name.
_UsageError: Any = typer.BadParameter.__base__

_STOPPED = 1
_MISTAKE = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells count

app = typer.Typer(
    add_completion=False,
    # Plain: boxes leave too few of 80 columns to the text, and bugs are to be pasted.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog=help.examples(help.FIRST, *help.EXAMPLES.values()),
)
for name, command in {
    "train": train.train,
    "report": report.report,
    "replay": replay.replay,
    "sweep": sweep.sweep,
    "reproduce": reproduce.reproduce,
    "inspect": inspect.inspect,
}.items():
    example = help.examples(help.EXAMPLES[name])
    app.command(name, cls=help.Grouped, epilog=example)(command)
app.add_typer(configs.app, name="configs")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"gradguard {__version__}")
        raise typer.Exit


@app.callback()
def gradguard(
    context: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """See every parameter's gradient norm before and after clipping."""
    del version  # its callback has done it
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line; a mistake of the user is one sentence and exit code 2."""
    outlast_readers()
    try:
        code = app(prog_name="gradguard", standalone_mode=False)
    except _UsageError as mistake:
        _stop(f"error: {mistake.format_message()}", code=_MISTAKE)
    except ConfigError as mistake:
        _stop(f"error: {mistake}", code=_MISTAKE)
    except Interrupted as ending:
        _stop(str(ending), code=_INTERRUPTED)
    except BadStepError as ending:
        _stop(f"stopped: {ending}", code=_STOPPED)
    except typer.Abort:  # what older releases of Typer make of Ctrl-C
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _stop("interrupted before training", code=code)
    reason = lost()
    if reason is not None:
        _stop(f"error: standard output cannot be written: {reason}", code=_STOPPED)
    sys.exit(code or 0)  # a command returns None


def _stop(sentence: str, *, code: int) -> NoReturn:
    typer.echo(f"gradguard: {sentence}", err=True)
    sys.exit(code)
