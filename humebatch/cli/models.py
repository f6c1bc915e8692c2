"""`humebatch models`: what measures each model on this machine, with which weights, and how well."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import HumebatchError
from ..jobs import MODEL_NAMES
from ..server.children import ChildFailed, list_models
from ..server.measure.card import Card, Entry
from ..server.measure.selection import Selection
from .options import AsJson
from .output import counted, emit, say

__all__ = ["models"]


async def models(
    model: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="Only these models. Default: all.")] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", metavar="NAME", help="As for serve: local, fixed, or MODEL=MEASURER."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show what measures each model on this machine: weights, licences, names, accuracy, limits.

    A running server shows the same at GET /v0/models. Exit code 1 when a model cannot be measured.
    """
    if unknown := set(model or ()) - set(MODEL_NAMES):
        raise typer.BadParameter(f"unknown model {sorted(unknown)[0]!r}: expected {', '.join(MODEL_NAMES)}")
    try:
        shown = await list_models(Selection.parse(measure or ["local"]))
    except ChildFailed as error:
        raise HumebatchError(f"the models cannot be listed: {error}") from error
    wanted = {name: entry for name, entry in shown.models.items() if not model or name in model}
    shared = {} if model else shown.shared
    if as_json:
        emit({"measure": shown.measure, "unmeasured": shown.unmeasured, "models": wanted, "shared": shared})
    else:
        entries = [*wanted.items(), *((name, Entry(card=card, absent={})) for name, card in shared.items())]
        typer.echo("\n\n".join("\n".join(_lines(name, entry)) for name, entry in entries))
    missing = [name for name, entry in wanted.items() if entry.missing is not None]
    if missing:
        say(f"Not measured on this machine: {', '.join(missing)}.")
    return 1 if missing else 0


def _lines(model: str, entry: Entry) -> list[str]:
    if entry.card is None:
        return [f"{model}: {entry.missing}"]
    card = entry.card
    lines = [f"{model}: {card.measurer} {card.version}" + (" (MADE-UP SCORES)" if card.made_up else "")]
    lines.append(f"  {card.summary}")
    lines += [f"  weights   {one}" for one in _weights(card)]
    for kind in ("measured", "derived"):
        names = [one.name for one in card.names if one.kind == kind]
        if names:
            lines.append(f"  {kind:9} {len(names)}: {', '.join(names)}")
    for field, names in entry.absent.items():
        if names and not card.made_up:
            lines.append(f"  absent    {counted(len(names), 'name')} of {field}: {', '.join(names)}")
    for figure in card.figures:
        lines.append(f"  accuracy  {figure.what}: {figure.value} ({figure.data}; {figure.command})")
    if card.speed:
        lines.append(f"  speed     {card.speed}")
    lines += [f"  limit     {limit}" for limit in card.limits]
    return lines


def _weights(card: Card) -> list[str]:
    return [
        f"{one.file}, {one.size:,} bytes, sha256 {one.sha256}, {one.licence}, from {one.source}" for one in card.weights
    ]
