"""The service as an aiohttp application: HTTP in, HTTP out, auth, and error bodies that name the field.

Behaviour follows what existing clients force on a server: 200 with a 36-character `job_id`,
`{"message": "job not found"}` for an unknown job, the old gateway's `fault` next to `message` for a
wrong key, and never a 408, 409, 429 or 5xx once a job was accepted, because the vendor's clients
send a submission again on those. Only a request with an `Idempotency-Key` may hear 409 while another one
with that key is coming in: sending it again makes no second job.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import logging
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
from aiohttp import web

from .._wire.batch import CAPABILITIES_HEADER, JOBS_PATH, KEY_HEADER
from .._wire.codec import encode
from .._wire.signature import key_from
from ..config import Secret
from ..jobs import InferenceRequest, JobId, Status
from . import artifacts
from .callbacks import CallbackLimits, Outbox
from .children import Children, in_child, list_models
from .echo import details_of, echo_of
from .fetching import FetchLimits, fetcher
from .filters import list_filter
from .folders import Folders
from .guard import Guard
from .idempotency import CAPABILITY, RETRY_SECONDS, UnderWay, job_of, key_of, keyed
from .intake import LARGE, IntakeLimits, Refused, receive
from .measure import APPLIES_TO, Selection, Unmeasurable
from .replies import gone, json_bytes, json_reply, refusal, unauthorized
from .runner import Fetcher, Runner, RunnerLimits
from .store import JobRow, Store

__all__ = ["CHILDREN", "create_app"]

CHILDREN = web.AppKey("children", Children)
"""The application's measuring processes, for tests that must not wait for the start of one."""

_log = logging.getLogger("humebatch.server")
_MEASURE_HEADER = "X-Humebatch-Measure"
_UNMEASURED_HEADER = "X-Humebatch-Unmeasured"
_OPEN = ""  # the tenant of a server without keys
_TENANT = web.RequestKey("tenant", str)
_ARTIFACTS_SECONDS = 3600.0
_SMALL_RESULTS = 4 * 1024 * 1024  # starting a process takes longer than making their artifacts
_BUSY_SECONDS = 5
_NO_FETCHING = (
    "urls: this server does not fetch URLs: upload the files, or have the server started with `humebatch serve --fetch`"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(
    data: Path,
    *,
    api_keys: Sequence[str] = (),
    measure: str | Sequence[str] = "local",
    unmeasured: Literal["absent", "zero"] = "absent",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    intake: IntakeLimits | None = None,
    running: RunnerLimits | None = None,
    callback_secret: str | Secret | None = None,
    callback_allow: Sequence[str] = (),
    callbacks: CallbackLimits | None = None,
    fetch: bool = False,
    fetch_allow: Sequence[str] = (),
    fetching: FetchLimits | None = None,
    idempotency: bool = True,
) -> web.Application:
    """The service over the folder `data`, as an `aiohttp.web.Application` to run or to mount.

    `api_keys`: who may use it; each key sees its own jobs only. Without keys everybody who can reach
    the port shares all jobs. `measure`: `local` (open models) or `fixed` (made-up scores, tests only), and any
    number of `MODEL=MEASURER`, such as `language=hf:FOLDER`. `unmeasured="zero"`: names that were not measured are
    written as 0.0 instead of being left out. `device`: where models run; `auto` takes a CUDA device if there is one.
    `callback_secret`: signs the callbacks (`whsec_…`, see `humebatch.callbacks.new_secret`); without one they go
    unsigned. `callback_allow`: hosts, addresses and CIDR ranges that callbacks may go to although they are not
    public; everything else that is not public is refused. `fetch`: fetches the `urls` of submissions; a submission
    that has some is refused otherwise. `fetch_allow`: what it may fetch from, as `callback_allow`.
    `idempotency=False`: ignores `Idempotency-Key` and announces nothing, as the hosted service did; for tests of
    clients.
    Raises `ConfigError` for a bad secret or host, and at start-up when another server uses the folder.
    """
    guard, fetch_guard = Guard(callback_allow), Guard(fetch_allow, option="fetch_allow")
    secret = callback_secret.reveal() if isinstance(callback_secret, Secret) else callback_secret
    key = None if secret is None else key_from(secret)

    def outbox(store: Store, folders: Folders) -> Outbox:
        return Outbox(store, folders, guard, key=key, limits=callbacks)

    service = _Service(
        data,
        tuple(api_keys),
        Selection.parse(measure, unmeasured=unmeasured),
        intake or IntakeLimits(),
        running or RunnerLimits(),
        outbox,
        idempotency,
        device,
        fetcher(fetch_guard, fetching) if fetch else None,
    )
    app = web.Application(middlewares=[service.guard], client_max_size=0)
    if idempotency:
        app.on_response_prepare.append(_announce)
    app[CHILDREN] = service.children
    app.cleanup_ctx.append(service.lifetime)
    app.add_routes(
        [
            web.get("/", service.about),
            web.get("/v0/models", service.models),
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
        self,
        data: Path,
        keys: tuple[str, ...],
        selection: Selection,
        intake: IntakeLimits,
        running: RunnerLimits,
        outbox: Callable[[Store, Folders], Outbox],
        idempotency: bool,
        device: str,
        fetch: Fetcher | None,
    ) -> None:
        self._folders = Folders(data)
        # Fingerprints only: a key that is not kept cannot leak.
        self._tenants = frozenset(_fingerprint(key) for key in keys)
        self._selection = selection
        self._intake = intake
        self._running = running
        self._making: dict[str, tuple[asyncio.Lock, int]] = {}
        self._makers = anyio.CapacityLimiter(2)
        self._outbox_for = outbox
        self._idempotency = idempotency
        self._fetch = fetch
        self._under_way = UnderWay()
        self._device = device
        self.children = Children(max(1, running.workers), stall_seconds=running.file_seconds, device=device)
        self._describing = asyncio.Lock()
        self._described: bytes | None = None

    async def lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        """Open the store and run the workers for as long as the application runs."""
        self._store = await anyio.to_thread.run_sync(Store, self._folders.root)
        try:
            await anyio.to_thread.run_sync(lambda: self._folders.prepare(self._store.known()))
            outbox = self._outbox_for(self._store, self._folders)
            self._runner = Runner(
                self._store,
                self._folders,
                self._selection,
                self._running,
                self.children,
                fetch=self._fetch,
                ended=outbox.wake,
            )
            await anyio.to_thread.run_sync(self._runner.recover)
            if self._selection.base == "fixed":
                _log.warning("measuring with 'fixed': every score is made up; for tests only")
            # Not a task group: an application may be started and stopped by different tasks.
            tasks = [
                asyncio.create_task(self._runner.run(), name="workers"),
                asyncio.create_task(outbox.run(), name="callbacks"),
            ]
            for task in tasks:
                task.add_done_callback(_report_end)
            yield
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        finally:
            await self.children.aclose()
            await anyio.to_thread.run_sync(self._store.close)

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the key, and turn every refusal and every surprise into a JSON body."""
        try:
            if request.path != "/":
                request[_TENANT] = self._tenant(request)
            response = await handler(request)
        except Refused as refused:
            response = refusal(refused.status, refused.message, refused.field, refused.detail)
            if refused.status == 409:
                response.headers["Retry-After"] = str(RETRY_SECONDS)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            field = {404: "path", 405: "method"}.get(error.status)
            response = refusal(error.status, f"{request.method} {request.path}: {error.reason}", field)
            response.headers.update({name: error.headers[name] for name in ("Allow",) if name in error.headers})
        except ConnectionError:
            # The client went away: nobody reads this answer, and aiohttp would log the exception as an error of ours.
            response = refusal(400, "the connection was closed before the request was complete")
        except sqlite3.OperationalError as error:
            # Asked again a little later it will do, so this is no 500; nothing was changed.
            _log.exception("%s %s: the database cannot be used", request.method, request.path)
            locked = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            response = refusal(503 if locked else 500, "the server's database cannot be used; its log says more")
            if locked:
                response.headers["Retry-After"] = str(_BUSY_SECONDS)
        except Exception:  # noqa: BLE001 - the last line of defence: a 500 in JSON, and the log
            _log.exception("%s %s failed", request.method, request.path)
            response = refusal(500, "internal error of the server; its log says more")
        if not response.prepared:
            # Answers about a job say already what measured that job.
            response.headers.setdefault(_MEASURE_HEADER, str(self._selection))
            if self._selection.unmeasured == "zero":
                response.headers.setdefault(_UNMEASURED_HEADER, "zero")
            # Only where this is promised may a client send a second submission on the same connection.
            if request.keep_alive:
                response.headers["Keep-Alive"] = f"timeout={int(request.protocol.keepalive_timeout)}"
        return response

    def _tenant(self, request: web.Request) -> str:
        if not self._tenants:
            return _OPEN
        given = request.headers.get(KEY_HEADER)
        if given is None:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            given = token if scheme.lower() == "bearer" else None
        if given is None:
            raise unauthorized(f"the request has no API key: send it in the header {KEY_HEADER}")
        print_ = _fingerprint(given)
        # Compared in constant time: a dictionary look-up would tell by its duration.
        for known in self._tenants:
            if hmac.compare_digest(known, print_):
                return known
        raise unauthorized("the API key is wrong: this server does not know it")

    async def about(self, _request: web.Request) -> web.Response:
        """What this server is and what it measures; open to everybody."""
        return json_reply(
            {"service": "humebatch", "api": "expression-measurement-batch-v0", "measure": str(self._selection),
             "models": list(APPLIES_TO), "capabilities": [CAPABILITY] if self._idempotency else []}
        )  # fmt: skip

    async def models(self, _request: web.Request) -> web.Response:
        """`GET /v0/models`, an extension: per model what measures it, with which weights and how well."""
        async with self._describing:
            if self._described is not None:
                return json_bytes(self._described)
            shown = await list_models(self._selection, device=self._device)
            listed = encode(shown)
            # What is missing may be there the next time: weights can be fetched while the server runs.
            if all(entry.missing is None for entry in shown.models.values()):
                self._described = listed
        return json_bytes(listed)

    async def submit(self, request: web.Request) -> web.Response:
        """`POST /v0/batch/jobs`: everything is on disk and in the database before the 200."""
        tenant, key = request[_TENANT], key_of(request.headers) if self._idempotency else None
        job_id = upload = str(uuid.uuid4())
        with self._under_way.held(tenant, key):
            try:
                received = await receive(request, self._folders.incoming(upload), self._intake)
                if received.body.urls and self._fetch is None:
                    raise Refused(400, _NO_FETCHING, "urls")
                echo = echo_of(received)
                # From here on the job is made or not made, but never half made by a client that hangs up.
                with anyio.CancelScope(shield=True):
                    job_id = await anyio.to_thread.run_sync(self._accept, upload, tenant, echo, key)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._folders.drop_incoming, upload)
        self._runner.wake()
        return json_reply(JobId(job_id=job_id))

    def _accept(self, job_id: str, tenant: str, echo: InferenceRequest, key: str | None) -> str:
        """Record the job; its id, or that of the job that an equal request with this key made before."""
        created_ms, sent = time.time_ns() // 1_000_000, encode(echo)
        mine = None if key is None else keyed(key, sent)
        if mine is not None and (earlier := self._store.keyed(mine.key, tenant=tenant, now_ms=created_ms)):
            return job_of(earlier, mine)
        try:
            self._folders.admit(job_id)
            self._store.accept(
                job_id=job_id,
                tenant=tenant,
                created_ms=created_ms,
                request=sent,
                callback_url=echo.callback_url,
                key=mine,
            )
        except BaseException as error:
            self._folders.drop_job(job_id)
            if _is_full(error):
                raise Refused(507, "the server has no room to store this job") from error
            raise
        return job_id

    async def list_jobs(self, request: web.Request) -> web.Response:
        """`GET /v0/batch/jobs` with every filter of the API."""
        wanted = list_filter(request.query)
        tenant = request[_TENANT]

        def listed() -> bytes:
            return encode([details_of(row) for row in self._store.list_jobs(wanted, tenant=tenant)])

        return json_bytes(await anyio.to_thread.run_sync(listed))

    async def details(self, request: web.Request) -> web.Response:
        """`GET /v0/batch/jobs/{id}`."""
        row = await self._row(request)
        if len(row.request) < LARGE:
            response = json_reply(details_of(row))
        else:
            response = json_bytes(await anyio.to_thread.run_sync(lambda: encode(details_of(row))))
        response.headers[_MEASURE_HEADER] = self._measured_by(row)
        return response

    async def predictions(self, request: web.Request) -> web.StreamResponse:
        """`GET /v0/batch/jobs/{id}/predictions`."""
        row = await self._completed(request)
        return await self._file(row, self._folders.predictions(row.id), "application/json")

    async def artifacts(self, request: web.Request) -> web.StreamResponse:
        """`GET /v0/batch/jobs/{id}/artifacts`; the ZIP is made when it is first asked for."""
        row = await self._completed(request)
        target = self._folders.artifacts(row.id)
        # Per job: whoever asks for a small one does not wait for somebody else's large one.
        lock, asking = self._making.get(row.id, (asyncio.Lock(), 0))
        self._making[row.id] = lock, asking + 1
        try:
            async with lock:
                if not await anyio.to_thread.run_sync(target.exists):
                    await self._make_artifacts(row, target)
        finally:
            lock, asking = self._making.pop(row.id)
            if asking > 1:
                self._making[row.id] = lock, asking - 1
        return await self._file(row, target, "application/octet-stream")

    async def _make_artifacts(self, row: JobRow, target: Path) -> None:
        predictions, faces = self._folders.predictions(row.id), self._folders.faces(row.id)
        if not await anyio.to_thread.run_sync(predictions.is_file):
            raise gone()
        size = (await anyio.to_thread.run_sync(predictions.stat)).st_size
        if size < _SMALL_RESULTS:
            await anyio.to_thread.run_sync(artifacts.build, predictions, target, faces)
            return
        try:
            await in_child(
                artifacts.build,
                *(predictions, target, faces),
                what="making the artifacts",
                limiter=self._makers,
                seconds=_ARTIFACTS_SECONDS,
            )
        except Unmeasurable as error:
            # The message of a 500 is not for the caller; the log has the reason.
            raise RuntimeError(f"job {row.id}: {error}") from error

    async def _file(self, row: JobRow, path: Path, content_type: str) -> web.StreamResponse:
        if not await anyio.to_thread.run_sync(path.is_file):
            raise gone()
        return web.FileResponse(path, headers={"Content-Type": content_type, _MEASURE_HEADER: self._measured_by(row)})

    def _measured_by(self, row: JobRow) -> str:
        return str(self._selection) if row.status == Status.QUEUED else row.measure

    async def _row(self, request: web.Request) -> JobRow:
        try:
            job_id = str(uuid.UUID(request.match_info["id"]))
        except ValueError:
            raise Refused(400, "id: a job id is a UUID", "id") from None
        row = await anyio.to_thread.run_sync(lambda: self._store.get(job_id, tenant=request[_TENANT]))
        if row is None:
            # Exactly this message: the legacy client compares it.
            raise Refused(404, "job not found", "id")
        return row

    async def _completed(self, request: web.Request) -> JobRow:
        row = await self._row(request)
        if row.status == Status.FAILED:
            raise Refused(400, f"the job failed and has no results: {row.message}", "id")
        if row.status != Status.COMPLETED:
            raise Refused(400, f"the job has not completed yet: it is {row.status}", "id")
        return row


async def _announce(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    # By this signal and not where responses are made: files, refusals and aiohttp's own answers go through it too.
    response.headers[CAPABILITIES_HEADER] = CAPABILITY


def _is_full(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        return error.sqlite_errorcode == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("the %s stopped; jobs are still accepted. Restart the server", task.get_name(), exc_info=error)


def _fingerprint(key: str) -> str:
    # What the database keeps of a key; it also makes all comparisons equally long.
    return hashlib.sha256(b"humebatch key\0" + key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
