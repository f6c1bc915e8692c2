"""A backend that measures uploads without storing them and is called back when results are there.

    HUMEBATCH_BASE_URL=http://127.0.0.1:8000 HUME_API_KEY=… HUMEBATCH_CALLBACK_SECRET=whsec_… \
        PUBLIC_URL=http://127.0.0.1:9000 uvicorn examples.fastapi_service:app --port 9000

    curl -T clip.wav http://127.0.0.1:9000/measure/clip.wav     {"job_id": "…"}
    curl http://127.0.0.1:9000/results/<job_id>                 202 until the result is there

The batch server needs the same secret, and `--callback-allow 127.0.0.1` to call back a machine that is not public.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

import humebatch as hb
from humebatch import callbacks

SECRET = os.environ["HUMEBATCH_CALLBACK_SECRET"]
# From the configuration and not from the request: a Host header is the caller's choice, and results go there.
CALLBACK_URL = os.environ["PUBLIC_URL"] + "/callback"

# HUMEBATCH_BASE_URL and HUME_API_KEY. Somebody waits for each answer: better a 503 soon than a success in minutes.
client = hb.BatchClient(retry=hb.RetryPolicy(attempts=2, cap=2, max_retry_after=4))
results: dict[str, bytes] = {}  # job id → callback; a real service has a database


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(hb.HumebatchError)
async def failed(_request: Request, error: hb.HumebatchError) -> JSONResponse:
    """The caller's mistakes are told; the rest is trouble with the batch server, for the log."""
    if isinstance(error, (hb.ConfigError, hb.SourceError)):
        return JSONResponse({"detail": str(error)}, 400)
    if isinstance(error, hb.ApiError) and error.status in (400, 404, 413, 422):
        return JSONResponse({"detail": str(error)}, error.status)
    logging.getLogger("uvicorn.error").warning("%s", error)
    not_now = isinstance(error, (hb.ConnectFailed, hb.RateLimited))
    return JSONResponse({"detail": "the batch server cannot be used"}, 503 if not_now else 502)


@app.exception_handler(ClientDisconnect)
async def gone(_request: Request, _error: ClientDisconnect) -> Response:
    """The caller hung up in the middle of an upload, and with it went the submission; nobody reads this."""
    return Response(status_code=400)


@app.put("/measure/{name}")
async def measure(name: str, request: Request) -> dict[str, str]:
    """Pass the body on to the batch server while it arrives."""
    length = request.headers.get("content-length")
    upload = hb.FileSource(content=request.stream(), name=name, size=int(length) if length else None)
    job = await client.submit(hb.Submission(files=[upload], callback_url=CALLBACK_URL))
    return {"job_id": job.id}


@app.post("/callback", status_code=204)
async def callback(request: Request) -> None:
    """The batch server says that a job has ended. It may say so twice, and sooner than `submit` returns."""
    body = await request.body()
    try:
        callbacks.verify(request.headers, body, secret=SECRET)
        results[callbacks.parse(body).job_id] = body
    except (hb.CallbackRejected, hb.DecodeError) as bad:
        raise HTTPException(401 if isinstance(bad, hb.CallbackRejected) else 400, str(bad)) from None


@app.get("/results/{job_id}")
async def result(job_id: str) -> Response:
    """The callback's body once it is there; until then 202 with the status that the batch server gives."""
    if (body := results.get(job_id)) is None:
        return JSONResponse({"status": (await client.details(job_id)).state.status}, 202)
    return Response(body, media_type="application/json")
