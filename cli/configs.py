"""`gradguard configs`: the bundled experiments."""

from typing import Annotated

import typer

app = typer.Typer(invoke_without_command=True)


@app.callback()
def configs(context: typer.Context) -> None:
    """List the bundled experiments, a line each."""
    from gradguard.experiments.resolve import bundled

    if context.invoked_subcommand is None:
        texts = bundled()
        width = max(map(len, texts))
        for name, text in texts.items():
            typer.echo(f"{name:<{width}}  {text.splitlines()[0].removeprefix('# ')}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="As listed by `gradguard configs`.")],
) -> None:
    """Print a bundled experiment."""
    from gradguard.experiments.resolve import bundled_text

    typer.echo(bundled_text(name), nl=False)
