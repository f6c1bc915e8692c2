"""The service as an aiohttp application: HTTP in, HTTP out, auth, and error bodies that name the field.

Behaviour follows what existing clients force on a server: 200 with a 36-character `job_id`,
`{"message": "job not found"}` for an unknown job, the old gateway's `fault` next to `message` for a
wrong key, and never a 408, 409, 429 or 5xx once a job was accepted, because the vendor's clients
send a submission again on those.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import anyio.to_thread
import msgspec
from aiohttp import web
from msgspec import UNSET

from .._wire.batch import DIRECTIONS, JOBS_PATH, KEY_HEADER, SORT_KEYS, WHEN, RequestBody
from .._wire.codec import encode
from ..jobs import (
    Burst,
    Face,
    Facemesh,
    InferenceRequest,
    JobDetails,
    JobId,
    Language,
    Models,
    Ner,
    Prosody,
    ProsodyWindow,
    State,
    Status,
    Transcription,
)
from . import artifacts
from .folders import Folders
from .intake import IntakeLimits, Received, Refused, receive
from .measure import MeasureMode, available
from .runner import Runner, RunnerLimits
from .store import JobRow, ListFilter, Store

__all__ = ["create_app"]

_log = logging.getLogger("humebatch.server")
_MEASURE_HEADER = "X-Humebatch-Measure"
_OPEN = ""  # the tenant of a server without keys
_TENANT = web.RequestKey("tenant", str)
_request_decoder = msgspec.json.Decoder(InferenceRequest)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(
    data: Path,
    *,
    api_keys: Sequence[str] = (),
    measure: MeasureMode = "local",
    intake: IntakeLimits | None = None,
    running: RunnerLimits | None = None,
) -> web.Application:
    """The service over the folder `data`, as an `aiohttp.web.Application` to run or to mount.

    `api_keys`: who may use it; each key sees its own jobs only. Without keys everybody who can reach
    the port shares all jobs. `measure`: `local` (open models) or `fixed` (made-up scores, tests only).
    Raises `ConfigError` at start-up when another server uses the folder.
    """
    service = _Service(data, tuple(api_keys), measure, intake or IntakeLimits(), running or RunnerLimits())
    app = web.Application(middlewares=[service.guard], client_max_size=0)
    app.cleanup_ctx.append(service.lifetime)
    app.add_routes(
        [
            web.get("/", service.about),
            web.post(JOBS_PATH, service.submit),
            web.get(JOBS_PATH, service.list_jobs),
            web.get(JOBS_PATH + "/{id}", service.details),
            web.get(JOBS_PATH + "/{id}/predictions", service.predictions),
            web.get(JOBS_PATH + "/{id}/artifacts", service.artifacts),
        ]
    )
    return app


class _Service:
    def __init__(
        self, data: Path, keys: tuple[str, ...], mode: MeasureMode, intake: IntakeLimits, running: RunnerLimits
    ) -> None:
        self._folders = Folders(data)
        self._tenants = {_fingerprint(key): key for key in keys}
        self._mode: MeasureMode = mode
        self._intake = intake
        self._running = running
        self._making = anyio.Lock()

    async def lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        """Open the store and run the workers for as long as the application runs."""
        self._store = await anyio.to_thread.run_sync(Store, self._folders.root)
        try:
            await anyio.to_thread.run_sync(lambda: self._folders.prepare(self._store.known()))
            self._runner = Runner(self._store, self._folders, self._mode, self._running)
            await anyio.to_thread.run_sync(self._runner.recover)
            if self._mode == "fixed":
                _log.warning("measuring with 'fixed': every score is made up; for tests only")
            # Not a task group: an application may be started and stopped by different tasks.
            task = asyncio.create_task(self._runner.run(), name="humebatch runner")
            task.add_done_callback(_report_end)
            yield
            task.cancel()
            await asyncio.wait([task])
        finally:
            await anyio.to_thread.run_sync(self._store.close)

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the key, and turn every refusal and every surprise into a JSON body."""
        try:
            if request.path != "/":
                request[_TENANT] = self._tenant(request)
            response = await handler(request)
        except Refused as refused:
            response = _refusal(refused.status, refused.message, refused.field)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = _refusal(error.status, f"{request.method} {request.path}: {error.reason}")
            response.headers.update({name: error.headers[name] for name in ("Allow",) if name in error.headers})
        except ConnectionError:
            # The client went away: nobody reads this answer, and aiohttp would log the exception as an error of ours.
            response = _refusal(400, "the connection was closed before the request was complete")
        except Exception:  # noqa: BLE001 - the last line of defence: a 500 in JSON, and the log
            _log.exception("%s %s failed", request.method, request.path)
            response = _refusal(500, "internal error of the server; its log says more")
        if not response.prepared:
            response.headers[_MEASURE_HEADER] = self._mode
        return response

    def _tenant(self, request: web.Request) -> str:
        if not self._tenants:
            return _OPEN
        given = request.headers.get(KEY_HEADER)
        if given is None:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            given = token if scheme.lower() == "bearer" else None
        if given is None:
            raise web.HTTPUnauthorized(reason="missing")
        print_ = _fingerprint(given)
        # Compared in constant time: a dictionary look-up would tell by its duration.
        for known in self._tenants:
            if hmac.compare_digest(known, print_):
                return known
        raise web.HTTPUnauthorized(reason="wrong")

    async def about(self, _request: web.Request) -> web.Response:
        """What this server is and what it measures; open to everybody."""
        return _json(
            {"service": "humebatch", "api": "expression-measurement-batch-v0", "measure": self._mode,
             "models": available(self._mode)}
        )  # fmt: skip

    async def submit(self, request: web.Request) -> web.Response:
        """`POST /v0/batch/jobs`: everything is on disk and in the database before the 200."""
        job_id = str(uuid.uuid4())
        try:
            received = await receive(request, self._folders.incoming(job_id), self._intake)
            echo = encode(_echo(received))
            # From here on the job is made or not made, but never half made by a client that hangs up.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._accept, job_id, request[_TENANT], echo)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._folders.drop_incoming, job_id)
        self._runner.wake()
        return _json(JobId(job_id=job_id))

    def _accept(self, job_id: str, tenant: str, echo: bytes) -> None:
        try:
            self._folders.admit(job_id)
            self._store.accept(job_id=job_id, tenant=tenant, created_ms=time.time_ns() // 1_000_000, request=echo)
        except BaseException:
            self._folders.drop_job(job_id)
            raise

    async def list_jobs(self, request: web.Request) -> web.Response:
        """`GET /v0/batch/jobs` with every filter of the API."""
        wanted = _list_filter(request.query)
        rows = await anyio.to_thread.run_sync(lambda: self._store.list_jobs(wanted, tenant=request[_TENANT]))
        return _json([_details(row) for row in rows])

    async def details(self, request: web.Request) -> web.Response:
        """`GET /v0/batch/jobs/{id}`."""
        return _json(_details(await self._row(request)))

    async def predictions(self, request: web.Request) -> web.StreamResponse:
        """`GET /v0/batch/jobs/{id}/predictions`."""
        row = await self._completed(request)
        return web.FileResponse(
            self._folders.predictions(row.id), headers={"Content-Type": "application/json", _MEASURE_HEADER: self._mode}
        )

    async def artifacts(self, request: web.Request) -> web.StreamResponse:
        """`GET /v0/batch/jobs/{id}/artifacts`; the ZIP is made when it is first asked for."""
        row = await self._completed(request)
        target = self._folders.artifacts(row.id)
        async with self._making:
            if not await anyio.to_thread.run_sync(target.exists):
                await anyio.to_thread.run_sync(artifacts.build, self._folders.predictions(row.id), target)
        return web.FileResponse(
            target, headers={"Content-Type": "application/octet-stream", _MEASURE_HEADER: self._mode}
        )

    async def _row(self, request: web.Request) -> JobRow:
        try:
            job_id = str(uuid.UUID(request.match_info["id"]))
        except ValueError:
            raise Refused(400, "id: a job id is a UUID", "id") from None
        row = await anyio.to_thread.run_sync(lambda: self._store.get(job_id, tenant=request[_TENANT]))
        if row is None:
            # Exactly this message: the legacy client compares it.
            raise Refused(404, "job not found")
        return row

    async def _completed(self, request: web.Request) -> JobRow:
        row = await self._row(request)
        if row.status == Status.FAILED:
            raise Refused(400, f"the job failed and has no results: {row.message}")
        if row.status != Status.COMPLETED:
            raise Refused(400, f"the job has not completed yet: it is {row.status}")
        return row


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("the workers stopped: jobs are accepted but not measured", exc_info=error)


def _fingerprint(key: str) -> str:
    # What the database keeps of a key; it also makes all comparisons equally long.
    return hashlib.sha256(b"humebatch key\0" + key.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json")


def _refusal(status: int, message: str, field: str | None = None) -> web.Response:
    body: dict[str, Any] = {"message": message}
    if field is not None:
        body["field"] = field
    if status == 401:
        body["message"] = "Invalid ApiKey"
        # The old gateway's words: the legacy client parses them.
        body["fault"] = {"faultstring": "Invalid ApiKey", "detail": {"errorcode": "oauth.v2.InvalidApiKey"}}
        body["field"] = KEY_HEADER
    return _json(body, status)


def _list_filter(query: Any) -> ListFilter:
    known = {"limit", "status", "when", "timestamp_ms", "sort_by", "direction"}
    for name in query:
        if name not in known:
            raise Refused(400, f"{name}: no such parameter; there are {', '.join(sorted(known))}", name)
    # SQLite's integers have 64 bits; nobody asks for more jobs than that.
    limit = min(_integer(query, "limit", 50, low=1), 2**31)
    statuses = query.getall("status", [])
    for status in statuses:
        if status not in tuple(Status):
            raise Refused(400, f"status: {status!r} is not one of {', '.join(Status)}", "status")
    when = _choice(query, "when", WHEN)
    timestamp = _integer(query, "timestamp_ms", None, low=-(2**63))
    if when is not None and timestamp is None:
        timestamp = time.time_ns() // 1_000_000
    return ListFilter(
        limit=limit,
        statuses=tuple(statuses),
        when=cast("Literal['created_before', 'created_after'] | None", when),
        timestamp_ms=timestamp,
        sort_by=cast("Literal['created', 'started', 'ended']", _choice(query, "sort_by", SORT_KEYS) or "created"),
        direction=cast("Literal['asc', 'desc']", _choice(query, "direction", DIRECTIONS) or "desc"),
    )


def _choice(query: Any, name: str, allowed: Sequence[str]) -> str | None:
    value: str | None = query.get(name)
    if value is not None and value not in allowed:
        raise Refused(400, f"{name}: {value!r} is not one of {', '.join(allowed)}", name)
    return value


def _integer(query: Any, name: str, default: Any, *, low: int) -> Any:
    value = query.get(name)
    if value is None:
        return default
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18) or int(value) < low:
        wanted = f"a whole number of at least {low}" if low > 0 else "a whole number"
        raise Refused(400, f"{name}: {value!r} is not {wanted}", name)
    return int(value)


def _details(row: JobRow) -> JobDetails:
    state = State(status=row.status, created_timestamp_ms=row.created_ms)
    if row.status != Status.QUEUED:
        state.started_timestamp_ms = row.started_ms
    if row.status == Status.COMPLETED:
        state.num_predictions, state.num_errors = row.num_predictions, row.num_errors
    if row.status in (Status.COMPLETED, Status.FAILED):
        state.ended_timestamp_ms = row.ended_ms
    if row.status == Status.FAILED:
        state.message = row.message
    return JobDetails(job_id=row.id, request=_request_decoder.decode(row.request), state=state)


def _filled(given: Any, defaults: Any) -> Any:
    """`given` with every field that the client left out, or sent as null, taken from `defaults`."""
    if not isinstance(given, type(defaults)):
        return None
    kept = {name: value for name in given.__struct_fields__ if (value := getattr(given, name)) not in (UNSET, None)}
    return msgspec.structs.replace(defaults, **kept)


# Defaults of the API reference; face's least box side is 60 pixels there.
_FACE = Face(
    fps_pred=3.0, prob_threshold=0.99, identify_faces=False, min_face_size=60, facs=None, descriptions=None,
    save_faces=False,
)  # fmt: skip
_DEFAULTS = Models(
    face=_FACE,
    burst=Burst(),
    prosody=Prosody(granularity="utterance", identify_speakers=False, window=None),
    language=Language(granularity="word", identify_speakers=False, sentiment=None, toxicity=None),
    ner=Ner(identify_speakers=False),
    facemesh=Facemesh(),
)
_TRANSCRIPTION = Transcription(language=None, identify_speakers=False, confidence_threshold=0.5)


def _echo(received: Received) -> InferenceRequest:
    """The request as jobs show it: defaults filled in, a model that does not run null."""
    body: RequestBody = received.body
    # No models named is the API's way to say all; an empty object switches nothing off either.
    given = body.models if isinstance(body.models, Models) else Models()
    if all(getattr(given, name) is UNSET for name in given.__struct_fields__):
        models = _DEFAULTS
    else:
        models = Models(
            **{name: _filled(getattr(given, name), getattr(_DEFAULTS, name)) for name in _DEFAULTS.__struct_fields__}
        )
        if models.prosody and models.prosody.window:
            window = _filled(models.prosody.window, ProsodyWindow(length=4.0, step=1.0))
            models = msgspec.structs.replace(models, prosody=msgspec.structs.replace(models.prosody, window=window))
    transcription = body.transcription
    return InferenceRequest(
        files=received.files,
        models=models,
        transcription=_TRANSCRIPTION if transcription is UNSET else _filled(transcription, _TRANSCRIPTION),
        urls=body.urls or [],
        text=body.text or [],
        callback_url=body.callback_url or None,
        notify=bool(body.notify),
    )
