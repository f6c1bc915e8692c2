"""Where things lie in `--data DIR`, and the order in which they get there.

    jobs.db  lock
    embedded.key                   the key of an embedded server that keeps its data
    incoming/<id>/0 1 …            an upload that is not accepted yet
    jobs/<id>/input/0 1 …          its files, until the job has ended
    jobs/<id>/predictions.json     the results, complete from the moment the name exists
    jobs/<id>/faces/<s>/<f>/…      faces that were saved of file <f> of source <s>
    jobs/<id>/artifacts.zip        made when it is first asked for

Names here are ids and numbers, never names that a client chose.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path

from .measure import Media
from .measure.rows import FACES

__all__ = ["Folders"]


class Folders:
    """The folder tree below `root`. Methods that touch the disk block."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._jobs = root / "jobs"

    def prepare(self, known: set[str]) -> None:
        """Make the tree, and remove uploads and job folders that no accepted job (`known`) owns."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        for folder in (self._incoming, self._jobs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in self._jobs.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def incoming(self, job_id: str) -> Path:
        """Where an upload is collected; made by whoever writes its first file."""
        return self._incoming / job_id

    def drop_incoming(self, job_id: str) -> None:
        """Forget a refused or broken upload."""
        shutil.rmtree(self._incoming / job_id, ignore_errors=True)

    def admit(self, job_id: str) -> None:
        """Move a whole upload to its job's folder, durably. To be called before the job is recorded."""
        home = self._jobs / job_id
        home.mkdir(mode=0o700)
        collected = self._incoming / job_id
        if collected.exists():
            _sync(collected)
            collected.rename(home / "input")
        else:
            (home / "input").mkdir()
        _sync(home)
        _sync(self._jobs)

    def drop_job(self, job_id: str) -> None:
        """Undo `admit` for a job that could not be recorded."""
        shutil.rmtree(self._jobs / job_id, ignore_errors=True)

    def input(self, job_id: str, number: int) -> Path:
        """The job's file of this number."""
        return self._jobs / job_id / "input" / str(number)

    def scratch(self, job_id: str) -> Path:
        """A folder for members of archives, removed with the inputs."""
        folder = self._jobs / job_id / "input" / "members"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def keep_member(self, job_id: str, member: Path) -> Path:
        """Take the file that the unpacking process laid down, before it lays down the next one."""
        kept = self._jobs / job_id / "input" / f"member-{secrets.token_hex(8)}"
        member.rename(kept)
        return kept

    def fetched(self, job_id: str, number: int) -> Path:
        """Where the file behind the job's URL of this number goes."""
        return self._jobs / job_id / "input" / f"url-{number}"

    def measured(self, job_id: str) -> Path:
        """A new name for a folder in which a measuring process leaves what it finds in one file."""
        return self._jobs / job_id / "input" / f"measured-{secrets.token_hex(8)}"

    def keep_faces(self, job_id: str, measured: Path, *, source: int, file: int) -> None:
        """Move the saved faces of a file to where the artifacts are made from."""
        if (measured / FACES).is_dir():
            target = self.faces(job_id) / str(source)
            target.mkdir(parents=True, exist_ok=True, mode=0o700)
            (measured / FACES).rename(target / str(file))

    def faces(self, job_id: str) -> Path:
        """The saved faces of a job: `<source>/<file>/<group>/<name>`."""
        return self._jobs / job_id / FACES

    def forget_crash(self, measured: Path, model: str | None) -> None:
        """Remove what a process left that died while it measured `model`: faces without rows, decoded media."""
        for left in measured.glob("decoded-*"):
            shutil.rmtree(left, ignore_errors=True)
        if model == "face":
            shutil.rmtree(measured / FACES, ignore_errors=True)

    def forget_file(self, path: Path, measured: Path) -> None:
        """Remove what was found in a file once it is in the results, and the file unless it was uploaded.

        Uploads stay until the job ends: after a crash they are all that there is.
        """
        shutil.rmtree(measured, ignore_errors=True)
        if path.name.startswith(("member-", "text-", "url-")):
            path.unlink(missing_ok=True)

    def forget_archive(self, path: Path) -> None:
        """Remove an archive that is unpacked, unless it was uploaded: a job may fetch a hundred of them."""
        if path.name.startswith("url-"):
            path.unlink(missing_ok=True)

    def write_text(self, job_id: str, number: int, text: str) -> Media:
        """A string of the request as a file to measure."""
        data = text.encode()
        path = self._jobs / job_id / "input" / f"text-{number}"
        path.write_bytes(data)
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return Media(path=str(path), name=str(number), file_type="text", md5sum=digest)

    def forget_inputs(self, job_id: str) -> None:
        """Delete what was uploaded, and results that were never complete, saved faces included: the job has ended."""
        shutil.rmtree(self._jobs / job_id / "input", ignore_errors=True)
        self.draft(job_id).unlink(missing_ok=True)
        if not self.predictions(job_id).exists():
            shutil.rmtree(self.faces(job_id), ignore_errors=True)

    def forget_ended(self, unfinished: set[str]) -> None:
        """Delete the inputs of all jobs but these: a crash may have come between a job's end and their deletion."""
        for folder in self._jobs.iterdir():
            if folder.name not in unfinished:
                self.forget_inputs(folder.name)

    def begin(self, job_id: str) -> Path:
        """Where results are written before they are complete; what an earlier attempt left is removed."""
        shutil.rmtree(self.faces(job_id), ignore_errors=True)
        for left in (self._jobs / job_id / "input").glob("*"):
            if not left.name.isdecimal():  # uploads are numbers, everything else is made of them
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        return self.draft(job_id)

    def draft(self, job_id: str) -> Path:
        """Where results are written before they are complete."""
        return self._jobs / job_id / "predictions.part"

    def publish(self, job_id: str) -> None:
        """The draft is complete and flushed: give it its name, durably."""
        self.draft(job_id).rename(self.predictions(job_id))
        _sync(self._jobs / job_id)

    def predictions(self, job_id: str) -> Path:
        """The job's results."""
        return self._jobs / job_id / "predictions.json"

    def artifacts(self, job_id: str) -> Path:
        """The job's artifacts ZIP, if it has been made."""
        return self._jobs / job_id / "artifacts.zip"


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
