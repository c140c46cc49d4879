"""The house rules that a reader relies on: imports go down, names are few, the docs know what there is."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rewindbox
from rewindbox import errors

ROOT = Path(__file__).parents[2]
PACKAGE = Path(rewindbox.__file__).parent

LAYERS = (
    ("errors", "meanwhile"),
    ("limits", "language", "execution", "points", "ids", "causes", "schema", "stdin"),
    ("languages",),
    ("models",),
    ("config", "chain", "guess", "intent"),
    ("elements", "naming", "transcripts", "choosing"),
    ("fences",),
    ("extraction", "policy", "backends.base", "store"),
    ("backends.namespace",),
    ("backends", "registry"),
    ("attacks", "timeline"),
    ("listing",),
    ("texts",),
    ("query", "rows"),
    ("history",),
    ("opened", "seed"),
    ("preview",),
    ("recorder", "session"),
    ("standing",),
    ("wire", "holders", "shapes"),
    ("transport",),
    ("following",),
    ("vm", "kept", "ready", "remote"),
    ("pool",),
    ("parsing", "run"),
    ("engine",),
    ("client",),
    ("interrupts",),
    ("portal",),
    ("door", "keeper"),
    ("lending",),
    ("terminal", "moments"),
    ("show", "documents"),
    ("telling",),
    ("call",),
    ("running", "commands", "doctor"),
    ("siege",),
    ("server.bounds", "server.tokens", "server.metrics", "server.journal", "server.bodies", "server.encoding"),
    ("server.problems", "server.feeds", "server.readiness", "server.turns", "server.counted"),
    ("server.gate", "server.streams", "server.work"),
    ("server.runs", "server.leases"),
    ("server.access",),
    ("server",),
    ("server.app", "server.listener"),
    ("server.serve", "server.reference"),
    ("cli",),
    ("__main__",),
)
INSIDE = (
    *(
        "kernel",
        "groups",
        "ground",
        "paths",
        "attributes",
        "trees",
        "occupied",
        "folds",
        "files",
        "changes",
        "seccomp",
        "rootfs",
        "machine",
        "layers",
        "processes",
        "memory",
        "parked",
        "growth",
        "lists",
        "watch",
    ),
    *(
        "guard",
        "forks",
        "checkpoints",
        "replies",
        "descriptions",
        "spawner",
        "jobs",
        "sessions",
        "turn",
        "head",
        "notebook",
        "scratch",
        "points",
        "supervisor",
        "launcher",
    ),
)


def layer_of(module: str) -> int:
    """How high a module stands; the longest name that fits decides."""
    fitting = [(len(name), level) for level, names in enumerate(LAYERS) for name in names if module.startswith(name)]
    assert fitting, f"{module} is in no layer"
    return max(fitting)[1]


def imports_of(path: Path) -> list[str]:
    """The modules of ours that a file imports at its top, `if TYPE_CHECKING` left out."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rewindbox"):
            module = (node.module or "").removeprefix("rewindbox").removeprefix(".")
            names = [alias.name for alias in node.names]
            for name in names:
                candidate = f"{module}.{name}".removeprefix(".")
                is_module = (PACKAGE / candidate.replace(".", "/")).with_suffix(".py").exists()
                found.append(candidate if is_module or (PACKAGE / candidate.replace(".", "/")).is_dir() else module)
    return [module for module in found if module]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    """No module imports one that stands above it."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for imported in imports_of(path):
        assert layer_of(imported) <= layer_of(name), f"{name} imports {imported}"


@pytest.mark.parametrize("name", INSIDE)
def test_what_runs_beside_a_vm_needs_the_standard_library_only(name: str) -> None:
    """The supervisor is started without site-packages, so its modules must do without."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); "
        f"import rewindbox.backends.namespace.{name}; "
        "bad = {m.split('.')[0] for m in sys.modules} & {'anyio', 'pydantic', 'rich', 'asyncio', 'sqlite3'}; "
        "sys.exit(str(bad) if bad else 0)"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(PACKAGE.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_does_nothing() -> None:
    """`import rewindbox` loads none of its own modules and nothing heavy."""
    code = "import sys, rewindbox; print([m for m in sys.modules if m.startswith('rewindbox.') or m == 'anyio'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    """Every public name can be had, and no other."""
    for name in rewindbox.__all__:
        assert getattr(rewindbox, name) is not None
    with pytest.raises(AttributeError):
        rewindbox.nothing_of_the_kind  # noqa: B018


def test_no_file_is_a_warehouse() -> None:
    """Files stay short enough to be read at once."""
    long = {path.name: count for path in modules() if (count := len(path.read_text().splitlines())) > 420}
    assert not long


def all_errors() -> list[type[errors.RewindboxError]]:
    return [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)]


def test_sql_has_no_numbered_placeholders() -> None:
    """Python 3.12.0 to 3.12.3 (Ubuntu 24.04's) take `?1` for a name, and warn."""
    for path in modules():
        assert not re.search(r"(= ?|\()\?[0-9]", path.read_text(encoding="utf-8")), path


def test_error_tree_is_drawn() -> None:
    """The picture at the top of errors.py has every class."""
    for error in all_errors():
        assert error.__name__ in (errors.__doc__ or ""), error.__name__


def test_error_codes_are_unique() -> None:
    """A code on the wire means one class."""
    codes = [error.code for error in all_errors()]
    assert len(set(codes)) == len(codes)


def test_error_kinds_are_those_of_the_original() -> None:
    """The fourteen kinds of terraphim_multi_agent 1.0.0, with its texts."""
    assert {error.kind for error in all_errors() if error.kind} == {
        *("VmNotAvailable", "ValidationFailed", "Timeout", "UnsupportedLanguage", "ApiError", "Internal"),
        *("HistoryError", "SnapshotNotFound", "RollbackFailed", "SessionNotFound", "ConnectionError"),
        *("ConfigError", "ExecutionFailed", "SnapshotFailed"),
    }
    assert str(errors.VmNotAvailable("x")) == "VM not available: x"
    assert str(errors.Timeout(5)) == "Execution timeout after 5ms"
    assert str(errors.SnapshotFailed("x")) == "Snapshot creation failed: x"


def test_architecture_names_every_module() -> None:
    """The code map is complete."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in modules():
        if path.name not in ("__init__.py", "__main__.py"):
            assert path.name in text, path.name


def test_where_to_change_what_is_true() -> None:
    """What ARCHITECTURE.md says is in a file is defined there."""
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Where to change what")[2].partition("\n## ")[0]
    said = re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", text)
    assert len(said) > 8
    for name, file in said:
        assert re.search(
            rf"^\s*(?:(?:async )?def|class) {name}\b|^{name}\b.* = ", (PACKAGE / file).read_text(), re.M
        ), name


def test_errors_are_documented() -> None:
    """docs/errors.md has a line for every class, with its code and what the original calls it."""
    lines = (ROOT / "docs" / "errors.md").read_text().splitlines()
    for error in all_errors():
        if error is not errors.RewindboxError:
            line = next((line for line in lines if re.search(rf"─ {error.__name__} ", line)), "")
            words = line.split()
            is_root = errors.RewindboxError in error.__bases__
            made = error(1) if error is errors.Timeout else error("x")
            assert error.code in words and (is_root or errors.kind_of(made) in words), error.__name__


def test_every_module_says_what_it_is() -> None:
    """Each file starts with a docstring."""
    for path in modules():
        module = (
            importlib.import_module(
                ".".join(("rewindbox", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
            )
            if path.name != "__main__.py"
            else None
        )
        assert module is None or module.__doc__, path
