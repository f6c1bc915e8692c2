"""A backend that measures uploads without storing them and is called back when results are there.

    HUMEBATCH_BASE_URL=http://127.0.0.1:8000 HUME_API_KEY=… HUMEBATCH_CALLBACK_SECRET=whsec_… \
        PUBLIC_URL=http://127.0.0.1:9000 uvicorn examples.fastapi_service:app --port 9000

    curl -T clip.wav http://127.0.0.1:9000/measure/clip.wav     {"job_id": "…"}
    curl http://127.0.0.1:9000/results/<job_id>                 202 until the result is there

The batch server needs the same secret, and `--callback-allow 127.0.0.1` to call back a machine that is not public.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response

import humebatch as hb
from humebatch import callbacks

SECRET = os.environ["HUMEBATCH_CALLBACK_SECRET"]
# From the configuration and not from the request: a Host header is the caller's choice, and results go there.
CALLBACK_URL = os.environ["PUBLIC_URL"] + "/callback"

client = hb.BatchClient()  # HUMEBATCH_BASE_URL and HUME_API_KEY
results: dict[str, bytes] = {}  # job id → callback; a real service has a database


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


@app.put("/measure/{name}")
async def measure(name: str, request: Request) -> dict[str, str]:
    """Pass the body on to the batch server while it arrives."""
    length = request.headers.get("content-length")
    try:
        upload = hb.FileSource(content=request.stream(), name=name, size=int(length) if length else None)
        job = await client.submit(hb.Submission(files=[upload], callback_url=CALLBACK_URL))
    except (hb.ConfigError, hb.InvalidRequest) as refused:
        raise HTTPException(400, str(refused)) from None
    return {"job_id": job.id}


@app.post("/callback", status_code=204)
async def callback(request: Request) -> None:
    """The batch server says that a job has ended. It may say so twice, and sooner than `submit` returns."""
    body = await request.body()
    try:
        callbacks.verify(request.headers, body, secret=SECRET)
    except hb.CallbackRejected as rejected:
        raise HTTPException(401, str(rejected)) from None
    results[callbacks.parse(body).job_id] = body


@app.get("/results/{job_id}")
async def result(job_id: str) -> Response:
    """The callback's body once it is there; until then 202 with the status that the batch server gives."""
    if (body := results.get(job_id)) is None:
        try:
            details = await client.details(job_id)
        except (hb.NotFound, hb.InvalidRequest) as unknown:
            raise HTTPException(404, "no such job") from unknown
        return Response(f'{{"status": "{details.state.status}"}}', status_code=202, media_type="application/json")
    return Response(body, media_type="application/json")
