"""Options that several commands take, and how their text becomes values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import msgspec.inspect
import typer

from .. import jobs
from .._client.batch import BatchClient
from ..config import API_KEY_VARIABLE, BASE_URL_VARIABLE, base_url_from
from ..errors import ConfigError

__all__ = ["ApiKey", "AsJson", "BaseUrl", "JobIds", "ModelsText", "Paths", "models_from", "remote"]

BaseUrl = Annotated[
    str | None, typer.Option("--base-url", metavar="URL", help=f"The server. Default: {BASE_URL_VARIABLE}.")
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", metavar="KEY", help=f"Its API key. Default: {API_KEY_VARIABLE}.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
JobIds = Annotated[list[str], typer.Argument(metavar="JOB_ID", help="Ids of jobs.")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH", help="Files; folders are searched.")]
ModelsText = Annotated[
    str | None,
    typer.Option(
        "--models",
        metavar="MODELS",
        help='Names (face,language) or the API\'s JSON object (\'{"language": {"granularity": "sentence"}}\'). '
        "Default: all.",
    ),
]


def models_from(text: str | None) -> jobs.Models | None:
    """`--models` as a value. Raises `ConfigError` naming what is wrong."""
    if text is None:
        return None
    if text.lstrip().startswith("{"):
        try:
            given = msgspec.json.decode(text, type=dict[str, Any])
            models = msgspec.json.decode(text, type=jobs.Models)
        except ValueError as error:
            raise ConfigError(f"--models: {error}", field="models") from None
    else:
        given = {name.strip(): {} for name in text.split(",") if name.strip()}
        models = msgspec.convert(given, jobs.Models)
    for name in given:
        if name not in jobs.MODEL_NAMES:
            raise ConfigError(
                f"--models: no model is called {name!r}; there are {', '.join(jobs.MODEL_NAMES)}", field="models"
            )
    if not given:
        raise ConfigError("--models: names no model", field="models")
    # The decoder passes over what it does not know, and a misspelled option would measure something else.
    _refuse_unknown(given, msgspec.inspect.type_info(jobs.Models), "models")
    jobs.Submission(text=["-"], models=models)  # its values are checked now, before a server is started for them
    return models


def _refuse_unknown(value: object, kind: msgspec.inspect.Type, path: str) -> None:
    """Raise `ConfigError` for a key, at any depth, that the struct in its place has no field for."""
    options = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    for struct in options:
        if isinstance(struct, msgspec.inspect.StructType) and isinstance(value, dict):
            known = {field.encode_name: field.type for field in struct.fields}
            for name, inner in value.items():
                if name not in known:
                    there_are = f"there are {', '.join(known)}" if known else "it has no options"
                    raise ConfigError(f"--models: {path} has no {name!r}; {there_are}", field=f"{path}.{name}")
                _refuse_unknown(inner, known[name], f"{path}.{name}")


def remote(base_url: str | None, api_key: str | None) -> BatchClient:
    """A client for a command that makes no sense on a server that ends with the command."""
    if base_url_from(base_url) is None:
        raise ConfigError(
            f"--base-url: which server? Give it, or set {BASE_URL_VARIABLE} (humebatch serve starts one)",
            field="base_url",
        )
    return BatchClient(base_url=base_url, api_key=api_key)
