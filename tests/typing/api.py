"""Every legal use of the public surface. Never run: mypy --strict and pyright read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, assert_type

from msgspec import UNSET, UnsetType

import humebatch as hb
from humebatch import config, errors, jobs, local, predictions, report, vocabulary
from humebatch.testing import FakeClock, RunningServer, Trouble, running_server


async def the_main_line() -> None:
    async with hb.BatchClient() as client:
        assert_type(client, hb.BatchClient)
        job = await client.submit(hb.Submission(files=["a.wav", Path("b.wav")]))
        assert_type(job, hb.Job)
        assert_type(job.id, str)
        assert_type(await job.details(), hb.JobDetails)
        assert_type(await job.wait(), hb.JobDetails)
        assert_type(await job.predictions(), list[predictions.SourceResult])
        assert_type(await job.save_predictions("p.json"), int)
        assert_type(await job.save_artifacts(Path("a.zip")), int)
        assert_type(client.job("id"), hb.Job)
        assert_type(await client.details("id"), hb.JobDetails)
        assert_type(client.base_url, str | None)
        assert_type(client.stats.requests, int)
        assert_type(client.stats.bytes_sent, int)


def clients() -> list[hb.BatchClient]:
    return [
        hb.BatchClient(),
        hb.BatchClient(api_key=None, base_url=None, limits=None, timeouts=None, retry=None, poll=None, clock=None),
        hb.BatchClient(api_key="key", base_url="https://host.example/prefix"),
        hb.BatchClient(api_key=config.Secret("key")),
        hb.BatchClient(
            limits=hb.Limits(uploads=8, polls=64, chunk=2**16),
            timeouts=hb.Timeouts(connect=1, read=None, answer=1.5),
            retry=hb.RetryPolicy(attempts=3, base=0.5, cap=10, max_retry_after=60),
            poll=hb.PollPolicy(first=1, factor=2, cap=30, jitter=0),
            clock=FakeClock(),
        ),
    ]


async def waiting(job: hb.Job) -> None:
    def seen(details: hb.JobDetails) -> None:
        assert_type(details.state.status, str)

    await job.wait(timeout=None)
    await job.wait(timeout=1, poll=hb.PollPolicy(first=1), on_state=seen)
    await job.wait(timeout=1.5, on_state=lambda details: None)


async def listing(client: hb.BatchClient) -> None:
    assert_type(client.list_jobs(), AsyncIterator[hb.JobDetails])
    async for details in client.list_jobs(
        limit=5,
        status=["COMPLETED", hb.Status.FAILED],
        when="created_after",
        timestamp_ms=0,
        sort_by="ended",
        direction="asc",
    ):
        assert_type(details, hb.JobDetails)
        assert_type(details.job_id, str)
        assert_type(details.type, str)
        assert_type(details.request, jobs.InferenceRequest)
        assert_type(details.state, hb.State)
        assert_type(details.state.finished, bool)
        assert_type(details.state.message, str | UnsetType | None)
        if details.state.status == hb.Status.COMPLETED:
            continue
    async for _ in client.list_jobs(status="QUEUED"):
        break
    async for _ in client.list_jobs(status=hb.Status.QUEUED):
        break


def submissions(paths: Sequence[Path], names: list[str], either: tuple[str | Path, ...]) -> list[hb.Submission]:
    everything = hb.Models(
        face=hb.Face(
            fps_pred=3,
            prob_threshold=0.99,
            identify_faces=True,
            min_face_size=60,
            facs={},
            descriptions={},
            save_faces=False,
        ),
        burst=hb.Burst(),
        prosody=hb.Prosody(
            granularity="utterance", identify_speakers=False, window=hb.ProsodyWindow(length=4, step=0.5)
        ),
        language=hb.Language(granularity="word", sentiment={}, toxicity=None, identify_speakers=UNSET),
        ner=hb.Ner(identify_speakers=True),
        facemesh=hb.Facemesh(),
    )
    return [
        hb.Submission(files=paths),
        hb.Submission(files=names),
        hb.Submission(files=either),
        hb.Submission(urls=["https://a.example/b.wav"], text=("one", "two"), models=everything),
        hb.Submission(text=["x"], models=None, transcription=None, callback_url=None, notify=None),
        hb.Submission(text=["x"], models=UNSET, transcription=UNSET, callback_url=UNSET, notify=UNSET),
        hb.Submission(
            text=["x"],
            transcription=hb.Transcription(language="en", identify_speakers=True, confidence_threshold=0.5),
            callback_url="https://a.example/hook",
            notify=True,
        ),
        hb.Submission(text=["x"], models=hb.Models(face=None, language=hb.Language())),
    ]


async def progress(client: hb.BatchClient) -> None:
    sent: list[int] = []
    await client.submit(hb.Submission(text=["x"]), progress=sent.append)
    await client.submit(hb.Submission(text=["x"]), progress=lambda count: None)
    await client.submit(hb.Submission(text=["x"]), progress=None)


def results(found: list[predictions.SourceResult]) -> None:
    for result in found:
        assert_type(result.source.type, str)
        assert_type(result.source.filename, str | UnsetType | None)
        assert_type(result.error, str | None)
        if result.results is None:
            continue
        for error in result.results.errors:
            assert_type(error.message, str)
            assert_type(error.model, str | None)
        for one in result.results.predictions:
            assert_type(one, predictions.Prediction)
            assert_type(one.file_type, str | None)
            models = one.models
            if models.face:
                assert_type(models.face, predictions.ModelPredictions[predictions.FacePrediction])
                for faces in models.face.grouped_predictions:
                    for face in faces.predictions:
                        assert_type(face.box.x, float)
                        assert_type(face.emotions, predictions.Scores)
                        assert_type(face.facs, predictions.Scores | None)
            if models.prosody:
                assert_type(models.prosody.metadata, predictions.TranscriptionMetadata | None)
                for group in models.prosody.grouped_predictions:
                    assert_type(group, predictions.GroupedPredictions[predictions.ProsodyPrediction])
                    assert_type(group.predictions[0].time.begin, float)
            if models.language:
                row = models.language.grouped_predictions[0].predictions[0]
                assert_type(row, predictions.LanguagePrediction)
                assert_type(row.position.begin, int)
            if models.ner:
                assert_type(models.ner.grouped_predictions[0].predictions[0].entity, str)
            if models.burst:
                assert_type(models.burst.grouped_predictions[0].predictions[0].descriptions, predictions.Scores)
            if models.facemesh:
                assert_type(models.facemesh.grouped_predictions[0].predictions[0].emotions, predictions.Scores)


def scores(emotions: predictions.Scores) -> None:
    assert_type(emotions["Joy"], float)
    assert_type(emotions[0], predictions.Score)
    assert_type(emotions[1:3], list[predictions.Score])
    assert_type(emotions.get("Joy"), float | None)
    assert_type(emotions.get("Joy", 0), float)
    assert_type(emotions.top(), list[predictions.Score])
    assert_type(emotions.top(3)[0].name, str)
    assert_type(emotions.as_dict(), dict[str, float])
    for score in emotions:
        assert_type(score, predictions.Score)
        assert_type(score.score, float)
    predictions.FacemeshPrediction(predictions.Scores([predictions.Score("Joy", 1)]))


def decoding(data: bytes) -> None:
    assert_type(predictions.decode(data), list[predictions.SourceResult])
    predictions.decode(bytearray(data))
    predictions.decode(memoryview(data))
    assert_type(predictions.read("predictions.json"), predictions.PredictionsReader)
    with predictions.read(Path("predictions.json.gz")) as reader:
        assert_type(len(reader), int)
        assert_type(reader[-1], predictions.SourceReader)
        for source in reader:
            assert_type(source, predictions.SourceReader)
            one_by_one(source)


def one_by_one(source: predictions.SourceReader) -> None:
    assert_type(source.source, predictions.Source)
    assert_type(source.error, str | None)
    assert_type(source.errors, list[predictions.ResultError])
    assert_type(source.load(), predictions.SourceResult)
    for file in source:
        assert_type(file, predictions.PredictionReader)
        assert_type((file.file, file.file_type), tuple[str, str | None])
        assert_type(file.models, predictions.ModelsPredictions)
        assert_type(file.rows("face"), Iterator[tuple[str, predictions.FacePrediction]])
        assert_type(file.rows("burst"), Iterator[tuple[str, predictions.BurstPrediction]])
        assert_type(file.rows("prosody"), Iterator[tuple[str, predictions.ProsodyPrediction]])
        assert_type(file.rows("language"), Iterator[tuple[str, predictions.LanguagePrediction]])
        assert_type(file.rows("ner"), Iterator[tuple[str, predictions.NerPrediction]])
        assert_type(file.rows("facemesh"), Iterator[tuple[str, predictions.FacemeshPrediction]])
        for model in file.present:
            for group, _ in file.rows(model):
                assert_type(group, str)
        for group, face in file.rows("face"):
            assert_type((group, face.emotions["Joy"]), tuple[str, float])


async def reading(job: hb.Job) -> None:
    async with job.open_predictions() as sources:
        assert_type(sources, AsyncIterator[predictions.SourceReader])
        async for source in sources:
            one_by_one(source)


async def going_wrong(client: hb.BatchClient) -> None:
    try:
        await client.submit(hb.Submission(files=["a.wav"]))
    except hb.ConfigError as error:
        assert_type(error.field, str | None)
    except hb.SourceError as error:
        assert_type(error.path, str)
    except hb.SubmissionUnknown as error:
        assert_type(error.since, float)
        assert_type(error.filenames, tuple[str, ...])
    except (hb.ConnectFailed, hb.RequestTimeout) as error:
        assert_type(error.earlier, tuple[BaseException, ...])
    except hb.TransportError as error:
        assert_type(error.attempts, int)
    except hb.RateLimited as error:
        assert_type(error.retry_after, float | None)
    except (hb.InvalidRequest, hb.AuthError, hb.NotFound, hb.TooLarge, hb.StorageFull) as error:
        assert_type(error.status, int)
    except hb.ServerError as error:
        assert_type(error.retry_after, float | None)
    except hb.ApiError as error:
        assert_type(error.code, str | None)
        assert_type(error.body, str)
    except hb.DecodeError as error:
        assert_type((error.path, error.near), tuple[str, str])
        assert_type((error.offset, error.data, error.file), tuple[int, bytes | None, str | None])
    except hb.JobFailed as error:
        assert_type(error.job_id, str)
        assert_type(error.details, Any)
    except hb.WaitTimeout as error:
        assert_type(error.job_id, str)
    except hb.HumebatchError as error:
        assert_type(error.message, str)
    assert_type(errors.error_class(404), type[hb.ApiError])


async def without_a_server(folder: Path) -> None:
    async with local.client() as client:
        assert_type(client, hb.BatchClient)
    async with hb.local.client(
        data=folder,
        measure="fixed",
        limits=hb.Limits(),
        timeouts=hb.Timeouts(),
        retry=hb.RetryPolicy(),
        poll=hb.PollPolicy(),
    ) as client:
        assert_type(client, hb.BatchClient)
    async with hb.local.client(data="folder", measure="local"):
        pass


def a_report(paths: list[str | Path]) -> None:
    page = report.page(["results", Path("predictions.json")])
    assert_type(page, report.Page)
    assert_type(page.html, str)
    assert_type(page.broken[0].error, str | None)
    assert_type(report.find(paths), list[Path])


async def an_ingest(client: hb.BatchClient, paths: Iterable[str | Path]) -> None:
    async with client.ingest(paths, models=hb.Models(face=hb.Face()), journal="run.db", out="results") as outcomes:
        async for outcome in outcomes:
            assert_type(outcome.item, str)
            assert_type(outcome.value, hb.Ingested | None)
            assert_type(outcome.unwrap().predictions, str)
        outcomes.stop()
        assert_type(await outcomes.report(), hb.IngestReport)
    async with client.ingest(
        Path("folder"),
        transcription=None,
        journal=Path("run.db"),
        out=Path("results"),
        include=["*.wav"],
        exclude=["old/"],
        files_per_job=500,
        retry_failed=True,
        rebind=True,
        tag_names=False,
        policy=hb.IngestPolicy(grace=60, max_outage=60),
    ):
        pass


async def testing() -> None:
    trouble = Trouble()
    trouble.submissions("drop", 502, "late", None)
    async with running_server(trouble=trouble, idempotency=False) as server, trouble.proxy(server.base_url) as proxy:
        assert_type(proxy.base_url, str)
        assert_type(server.jobs(), list[hb.JobDetails])
    async with running_server() as server:
        assert_type(server, RunningServer)
        assert_type(server.base_url, str)
    async with running_server(data="folder", api_key="k", measure="fixed") as server:
        assert_type(server.data, Path)
    clock = FakeClock(start=1)
    await clock.sleep(1)
    assert_type(clock.now(), float)
    assert_type(clock.sleeps, list[float])


def takes(number: int, word: str) -> None: ...


def names() -> None:
    assert_type(hb.__version__, str)
    assert_type(vocabulary.EMOTIONS, tuple[str, ...])
    takes(jobs.MAX_ITEMS, hb.Status.COMPLETED)
    assert_type(config.api_key_from("k"), config.Secret | None)
    assert_type(config.base_url_from(None), str | None)
