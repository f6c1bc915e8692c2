"""The contenders of the predictions benchmark: `python -m benchmarks.decoders NAME FILE`.

Each runs in a process of its own: it imports, reads the file, decodes a few rows to be warm, says how much anonymous
memory it holds, does its work once, and prints a line of JSON. `hume` runs in an environment of its own and must not
need anything of ours, so nothing here is imported at the top.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WARM = (
    b'[{"source":{"type":"file","filename":"v.mp4","content_type":null,"md5sum":"0"},"results":{"predictions":[{"file":'
    b'"v.mp4","file_type":"video","models":{"face":{"metadata":null,"grouped_predictions":[{"id":"unknown",'
    b'"predictions":[{"frame":0,"time":0.5,"prob":1.0,"box":{"x":1.0,"y":1.0,"w":1.0,"h":1.0},"emotions":'
    b'[{"name":"Joy","score":0.5}],"facs":null,"descriptions":null}]}]},"prosody":{"metadata":null,'
    b'"grouped_predictions":[{"id":"unknown","predictions":[{"text":"hi","time":{"begin":0.0,"end":1.0},"confidence":1.0,'
    b'"speaker_confidence":null,"emotions":[{"name":"Joy","score":0.5}]}]}]}}}],"errors":[]}}]'
)


def _hume(_: Path) -> Callable[[bytes], Any]:
    from typing import List  # noqa: UP035 - as its own code asks for it

    from hume.core.pydantic_utilities import parse_obj_as  # type: ignore[import-not-found]  # an environment of its own
    from hume.expression_measurement.batch.types import UnionPredictResult  # type: ignore[import-not-found]

    # What its get_job_predictions does with an answer.
    return lambda data: parse_obj_as(type_=List[UnionPredictResult], object_=json.loads(data))  # noqa: UP006


def _json(_: Path) -> Callable[[bytes], Any]:
    return json.loads


def _msgspec(_: Path) -> Callable[[bytes], Any]:
    import msgspec

    return msgspec.json.decode


def _decode(_: Path) -> Callable[[bytes], Any]:
    from humebatch import predictions

    return predictions.decode


def _read_scores(_: Path) -> Callable[[bytes], Any]:
    """Decode, and touch every score by name."""
    from humebatch import predictions

    def work(data: bytes) -> float:
        joy = 0.0
        for source in predictions.decode(data):
            for file in source.results.predictions if source.results else ():
                for found in (file.models.face, file.models.prosody):
                    for group in found.grouped_predictions if found else ():
                        joy += sum(row.emotions["Joy"] for row in group.predictions)
        return joy

    return work


def _iterate(path: Path) -> Callable[[bytes], Any]:
    from humebatch import predictions

    def work(_: bytes) -> int:
        count = 0
        for source in predictions.read(path):
            for file in source:
                count += sum(1 for model in file.present for _ in file.rows(model))
        return count

    return work


def _tables(_: Path) -> Callable[[bytes], Any]:
    from humebatch import tables

    # All models in one pass, as the readers of lines have each line once.
    return tables.by_model


def _tables_of_structs(_: Path) -> Callable[[bytes], Any]:
    from humebatch import predictions, tables

    def work(data: bytes) -> Any:
        decoded = predictions.decode(data)
        return tables.face(decoded), tables.prosody(decoded)

    return work


def _pyarrow_json(path: Path) -> Callable[[bytes], Any]:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    read_json: Any = arrow_json.read_json  # its stubs know no buffers
    return _lines_of(path, lambda rows: read_json(pa.BufferReader(rows)))


def _polars_json(path: Path) -> Callable[[bytes], Any]:
    import io

    import polars as pl

    return _lines_of(path, lambda rows: pl.read_ndjson(io.BytesIO(rows)))


def _lines_of(path: Path, reader: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    rows = [file.read_bytes() for file in sorted(path.parent.glob("rows.*"))]
    few = [b"".join(lines.splitlines(keepends=True)[:3]) for lines in rows]
    return lambda data: [reader(lines) for lines in (few if data is _WARM else rows)]


def _parquet(path: Path) -> Callable[[bytes], Any]:
    from humebatch import tables

    def work(data: bytes) -> Any:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            return tables.write_parquet(data if data is _WARM else path, folder)

    return work


CONTENDERS: dict[str, Callable[[Path], Callable[[bytes], Any]]] = {
    "humebatch": _decode,
    "humebatch+scores": _read_scores,
    "humebatch iterating": _iterate,
    "hume": _hume,
    "json": _json,
    "msgspec": _msgspec,
    "humebatch.tables": _tables,
    "humebatch.tables of structs": _tables_of_structs,
    "pyarrow.json": _pyarrow_json,
    "polars": _polars_json,
    "parquet": _parquet,
}
# They take the path; the data would only count as their memory.
BY_PATH = {"humebatch iterating", "parquet", "pyarrow.json", "polars"}


def _anonymous() -> int:
    """Anonymous memory of this process in bytes; pages of mapped files do not count."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def main(name: str, file: str) -> None:
    """Run one contender."""
    path = Path(file)
    work = CONTENDERS[name](path)
    work(_WARM)
    data = b"" if name in BY_PATH else path.read_bytes()
    # From here on the parent watches the memory.
    print(json.dumps({"held": _anonymous()}), flush=True)
    began = time.perf_counter()
    result = work(data)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "after": _anonymous()}), flush=True)
    # Freeing it is not what is measured.
    del result


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
