"""A file from the queue to its results: what one model does wrong costs that model, and nothing else."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import anyio
import pytest

import humebatch as hb
from humebatch.errors import ConfigError
from humebatch.predictions import MeasuredBy, SourceResult
from humebatch.server import RunnerLimits
from humebatch.server.folders import Folders
from humebatch.server.measure import Selection
from humebatch.testing import RunningServer, running_server
from humebatch.vocabulary import BURST_DESCRIPTIONS, EMOTIONS

pytestmark = pytest.mark.anyio

POLL = hb.PollPolicy(first=0.02, cap=0.1)
MODELS = hb.Models(burst=hb.Burst(), prosody=hb.Prosody())
WAV = b"RIFF\x24\0\0\0WAVEfmt "


@pytest.fixture(autouse=True)
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy measurers as a package that is installed: `--measure burst=toy:BEHAVIOUR`."""
    installed = tmp_path / "site-packages"
    about = installed / "toys-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[humebatch.measurers]\ntoy = tests.server.measure.toys:toy\nface_toy = tests.server.measure.toys:face_toy\n"
    )
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))


async def measured(
    server: RunningServer, *names: str, models: hb.Models = MODELS, content: bytes = WAV
) -> tuple[hb.Job, list[SourceResult]]:
    files = [hb.FileSource(content=content, name=name) for name in names]
    async with hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client:
        job = await client.submit(hb.Submission(files=files, models=models))
        await job.wait(timeout=120)
        return job, await job.predictions()


def toy(behaviour: str) -> list[str]:
    return ["fixed", f"burst=toy:{behaviour}"]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("crashes", "measuring burst failed: the worker crashed; the file may be damaged"),
        ("raises", "measuring burst failed: LookupError: no such thing"),
        ("not_a_number", "measuring burst failed: ContractBroken: the score of 'Joy' in emotions is nan"),
        ("no_time", "measuring burst failed: ContractBroken: a prediction is not of the form that burst has: "),
        ("escapes", "measuring burst failed: ContractBroken: '..' is not a plain name"),
        ("talks", "measuring burst failed: what the worker said of its progress cannot be read"),
        ("reaches_nothing", "measuring burst failed: what the worker said of its progress cannot be read"),
    ],
)
async def test_a_model_that_fails_on_a_file_leaves_the_others_alone(behaviour: str, said: str) -> None:
    async with running_server(measure=toy(behaviour)) as server:
        _, (result,) = await measured(server, "a.wav")
        assert result.results is not None
        (prediction,) = result.results.predictions
        assert not prediction.models.burst
        assert prediction.models.prosody
        (error,) = result.results.errors
        assert (error.file, error.model) == ("a.wav", "burst")
        assert error.message.startswith(said)


async def test_a_model_that_hangs_is_stopped() -> None:
    async with running_server(measure=toy("hangs"), running=RunnerLimits(file_seconds=2)) as server:
        _, (result,) = await measured(server, "a.wav")
        assert result.results is not None
        (error,) = result.results.errors
        assert error.message == "measuring burst failed: it made no progress for 2 s and was stopped"
        assert result.results.predictions[0].models.prosody


async def test_a_rejected_transcript_is_said_once_and_nothing_is_measured_again(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    async with running_server(measure=toy(f"rejects={asked}")) as server:
        _, (result,) = await measured(server, "a.wav")
    assert result.results is not None
    assert [(error.model, error.message) for error in result.results.errors] == [(None, "not sure enough")]
    assert await anyio.to_thread.run_sync(asked.read_text) == "asked\n"


async def test_a_file_that_crashes_its_process_leaves_the_files_beside_it_alone() -> None:
    async with running_server(measure=toy("crashes_on_bad")) as server:
        files = [hb.FileSource(content=WAV + kind, name=f"{kind.decode()}.wav") for kind in (b"one", b"bad", b"two")]
        async with hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client:
            job = await client.submit(hb.Submission(files=files, models=MODELS))
            await job.wait(timeout=120)
            results = await job.predictions()
    found = [[bool(one.models.burst) for one in result.results.predictions] for result in results if result.results]
    assert found == [[True], [False], [True]]


async def test_what_libraries_print_does_not_reach_the_server() -> None:
    async with running_server(measure=toy("prints")) as server:
        _, (result,) = await measured(server, "a.wav")
        assert result.results is not None
        assert result.results.errors == []


async def test_measuring_processes_know_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUME_API_KEY", "secret")
    monkeypatch.setenv("HUMEBATCH_CALLBACK_SECRET", "secret")
    async with running_server(measure=toy("secrets")) as server:
        _, (result,) = await measured(server, "a.wav")
        assert result.results is not None
        assert "HUME" not in result.results.errors[0].message


async def test_files_of_a_job_are_measured_side_by_side(tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    async with running_server(measure=toy(f"meets={meeting}"), running=RunnerLimits(workers=2)) as server:
        _, results = await measured(server, "a.wav", "b.wav")
        # Whichever ended first, results are in the order of the request.
        names = [one.file for result in results if result.results for one in result.results.predictions]
        assert names == ["a.wav", "b.wav"]


async def test_a_job_tells_how_many_of_its_files_are_done(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with (
        running_server(measure=toy(f"waits={gate}"), running=RunnerLimits(workers=1)) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
    ):
        files = [hb.FileSource(content=WAV, name=name) for name in ("first.wav", "second.wav")]
        job = await client.submit(hb.Submission(files=files, models=MODELS))
        with anyio.fail_after(60):
            while (await job.details()).state.files_done != 1:
                await anyio.sleep(0.02)
        await anyio.to_thread.run_sync(gate.touch)
        assert (await job.wait(timeout=60)).state.files_done == 2


async def test_rows_are_grouped_by_person_and_saved_faces_follow_them() -> None:
    async with running_server(measure=toy("people")) as server:
        async with hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client:
            job = await client.submit(
                hb.Submission(files=[hb.FileSource(content=WAV, name="a b.wav")], models=hb.Models(burst=hb.Burst()))
            )
            await job.wait(timeout=60)
            (result,) = await job.predictions()
            archive = await job.save_artifacts(Path(server.data) / "out.zip")
        assert result.results is not None
        found = result.results.predictions[0].models.burst
        assert found
        seconds = {group.id: [one.time.begin for one in group.predictions] for group in found.grouped_predictions}
        assert seconds == {"face_0": [0, 2, 3], "face_1": [1, 4]}
        assert [error.message for error in result.results.errors] == ["two of them were one person"]

        def saved() -> dict[str, bytes]:
            with zipfile.ZipFile(io.BytesIO(Path(server.data, "out.zip").read_bytes())) as opened:
                return {name: opened.read(name) for name in opened.namelist() if "/faces/" in name}

        del archive
        folder = "file-0-a b.wav/faces/a b.wav"
        assert await anyio.to_thread.run_sync(saved) == {
            f"{folder}/face_0/frame=0.png": b"picture 0",
            f"{folder}/face_0/frame=2.png": b"picture 2",
            f"{folder}/face_0/frame=3.png": b"picture 3",
            f"{folder}/face_1/frame=1.png": b"picture 1",
            f"{folder}/face_1/frame=4.png": b"picture 4",
        }


async def test_faces_of_a_model_that_crashed_are_not_in_the_artifacts(tmp_path: Path) -> None:
    models = hb.Models(face=hb.Face(), burst=hb.Burst())
    async with (
        running_server(measure=["fixed", "face=face_toy"]) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
    ):
        files = [hb.FileSource(content=b"\0\0\0\x18ftypmp42", name="a.mp4")]
        job = await client.submit(hb.Submission(files=files, models=models))
        await job.wait(timeout=60)
        (result,) = await job.predictions()
        await job.save_artifacts(tmp_path / "out.zip")
    assert result.results is not None
    assert result.results.predictions[0].models.burst
    assert not result.results.predictions[0].models.face

    def saved() -> list[str]:
        with zipfile.ZipFile(tmp_path / "out.zip") as opened:
            return [name for name in opened.namelist() if "/faces/" in name]

    assert await anyio.to_thread.run_sync(saved) == []


@pytest.mark.parametrize("completed", [True, False])
def test_saved_faces_outlive_only_a_job_that_has_results(completed: bool, tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.faces("job").mkdir(parents=True)
    folders.draft("job").touch()
    if completed:
        folders.publish("job")
    folders.forget_inputs("job")
    assert folders.faces("job").exists() == completed
    assert not folders.draft("job").exists()


def test_a_second_attempt_begins_without_what_the_first_one_left(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    inputs = tmp_path / "jobs" / "job" / "input"
    for folder in ("measured-1", "members"):
        (inputs / folder).mkdir(parents=True)
        (inputs / folder / "part").touch()
    for name in ("0", "1", "url-0", "text-1", "member-1"):
        (inputs / name).touch()
    folders.begin("job")
    assert sorted(path.name for path in inputs.iterdir()) == ["0", "1"]


async def test_an_answer_says_what_measured_it() -> None:
    async with running_server(measure=toy("people")) as server:
        _, (result,) = await measured(server, "a.wav")
    assert isinstance(result.measured_by, dict)
    assert result.measured_by["burst"] == MeasuredBy(
        measurer="toy", version="7", summary="a toy", licence="MIT", accuracy=["AUC: .5 (coin)"]
    )
    assert result.measured_by["prosody"].made_up


async def test_unmeasured_names_are_zero_only_where_the_server_was_told_to() -> None:
    async with running_server(measure=toy("people"), unmeasured="zero") as server:
        _, (result,) = await measured(server, "a.wav")
    assert result.results is not None
    burst = result.results.predictions[0].models.burst
    assert burst
    first = burst.grouped_predictions[0].predictions[0]
    assert [one.name for one in first.emotions] == list(EMOTIONS)
    assert first.emotions["Joy"] == 0.5
    assert sum(one.score for one in first.emotions) == 0.5
    assert [one.name for one in first.descriptions] == list(BURST_DESCRIPTIONS)
    assert any("a zero is not a measurement" in error.message for error in result.results.errors)
    assert isinstance(result.measured_by, dict)
    assert result.measured_by["burst"].unmeasured == "zero"


async def test_the_catalogue_lists_every_model_with_its_names_and_figures() -> None:
    async with running_server(measure=["fixed", "burst=toy:people", "face=nobody"]) as server:
        request = f"{server.base_url}/v0/models"
        async with hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as client:
            assert client is not None

        def ask() -> dict[str, object]:
            asked = urllib.request.Request(request, headers={"X-Hume-Api-Key": server.api_key})
            with urllib.request.urlopen(asked) as reply:
                assert reply.headers["X-Humebatch-Measure"] == "fixed, burst=toy, face=nobody"
                found: dict[str, object] = json.loads(reply.read())
                return found

        catalogue = await anyio.to_thread.run_sync(ask)
    models = catalogue["models"]
    assert isinstance(models, dict)
    assert list(models) == ["face", "burst", "prosody", "language", "ner", "facemesh"]
    assert models["burst"]["card"]["figures"] == [{"what": "AUC", "value": ".5", "data": "coin", "command": "toss"}]
    assert models["burst"]["absent"]["emotions"] == [name for name in EMOTIONS if name != "Joy"]
    assert models["prosody"]["card"]["made_up"] is True
    assert models["face"]["card"] is None
    assert "no measurer 'nobody' is installed" in models["face"]["missing"]


async def test_the_catalogue_does_not_wait_for_a_long_file(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with (
        running_server(measure=toy(f"waits={gate}"), running=RunnerLimits(workers=1)) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
    ):
        files = [hb.FileSource(content=WAV, name=name) for name in ("first.wav", "second.wav")]
        job = await client.submit(hb.Submission(files=files, models=MODELS))
        with anyio.fail_after(60):
            while (await job.details()).state.files_done != 1:
                await anyio.sleep(0.02)

        def ask() -> int:
            url, headers = f"{server.base_url}/v0/models", {"X-Hume-Api-Key": server.api_key}
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as reply:
                return int(reply.status)

        assert await anyio.to_thread.run_sync(ask) == 200
        assert (await job.details()).state.status == "IN_PROGRESS"
        await anyio.to_thread.run_sync(gate.touch)
        await job.wait(timeout=60)


async def test_the_catalogue_is_for_those_with_a_key() -> None:
    async with running_server() as server:

        def ask() -> int:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{server.base_url}/v0/models", timeout=60)
            with caught.value as refused:
                return refused.code

        assert await anyio.to_thread.run_sync(ask) == 401


async def test_a_measurer_of_another_model_is_refused() -> None:
    async with running_server(measure=["fixed", "prosody=toy:people"]) as server:
        _, (result,) = await measured(server, "a.wav", models=hb.Models(prosody=hb.Prosody()))
    assert result.results is not None
    assert result.results.errors[0].message == "prosody is not measured: the measurer 'toy' measures burst"


@pytest.mark.parametrize("given", ["", "local,fixed", "voice=hf:x", "face=", "=x", "real"])
def test_a_selection_that_names_nothing_is_refused(given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Selection.parse([given])
    assert caught.value.field == "measure"


def test_a_selection_shows_no_folders() -> None:
    chosen = Selection.parse(["fixed", "language=hf:/home/me/secret-model"])
    assert chosen.of("language") == "hf:/home/me/secret-model"
    assert chosen.of("face") == "fixed"
    assert str(chosen) == "fixed, language=hf"
