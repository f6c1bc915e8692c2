"""The typer application: every command under its name."""

from __future__ import annotations

from typing import Annotated

import typer

from . import jobs, journal, models, report, run, serve, tables, weights
from .output import command

__all__ = ["app"]

app = typer.Typer(
    name="humebatch",
    help="Expression Measurement batch API: run a server, send files to one, get predictions.",
    no_args_is_help=True,
    # Tracebacks with local variables would show keys.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(importlib.metadata.version("humebatch"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for _name, _function in (
    ("run", run.run),
    ("serve", serve.serve),
    ("submit", jobs.submit),
    ("status", jobs.status),
    ("wait", jobs.wait),
    ("list", jobs.list_jobs),
    ("predictions", jobs.predictions),
    ("artifacts", jobs.artifacts),
    ("models", models.models),
    ("report", report.report),
    ("tables", tables.tables),
    ("weights", weights.weights),
):
    app.command(_name)(command(_function))

_journal = typer.Typer(help="Look into the journal of a run.", no_args_is_help=True)
_journal.command("show")(command(journal.show))
app.add_typer(_journal, name="journal")
