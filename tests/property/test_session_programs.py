"""Random programs in live sessions against a plain model of files and variables, and long lives of sessions.

The model is not asked how a point is kept. It knows one thing of that: after a freeze (the upper layer was too
big to copy), names of one file part when one of them is changed, and folders may refuse to be renamed.
"""

import ast
import copy
import errno
import io
import os
import posixpath
import random
import shlex
import stat
import statistics
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from conftest import PATIENCE_S, SOAK, eventually, members, namespace, scaled, status_of
from rewindbox import Rewindbox
from rewindbox.config import Settings
from rewindbox.errors import SnapshotNotFound
from rewindbox.limits import Limits
from rewindbox.models import HistoryConfig, VmExecutionConfig

HOME = "/home/agent"
KEPT_EXECUTIONS = 40
"""So few that points are forgotten, too."""
PROCESSES_MAX = Settings().session_checkpoints + 8
"""Of a vm with one session: pid 1, template, head, its newest checkpoint, and some that have just ended."""
PYTHONS = ("main", "other")
LINES = 10_000
"""In a file that is read bit by bit: 48 KB, six times what a reader buffers."""

NAMES = st.sampled_from(["a", "b", "c", "ü", "n" * 200])
PATHS = st.one_of(NAMES, NAMES, st.lists(NAMES, min_size=1, max_size=3).map("/".join))
LINED = st.sampled_from(["l0", "l1"])
"""Files that are open for reading; nobody changes what is in them."""
FILE_STEPS = st.one_of(
    st.tuples(st.just("write"), PATHS, st.integers(0, 9)),
    st.tuples(st.just("append"), PATHS, st.integers(0, 9)),
    st.tuples(st.just("mkdir"), PATHS),
    st.tuples(st.just("remove"), PATHS | LINED),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("chmod"), PATHS | LINED, st.sampled_from([0o600, 0o644, 0o755, 0o4755])),
    st.tuples(st.just("symlink"), PATHS, NAMES),
    *[st.tuples(st.just("link"), NAMES, PATHS)] * 2,
    st.tuples(st.just("append"), NAMES, st.integers(1, 9)),
)
VARIABLES = st.sampled_from("wxyz")
VALUES = st.recursive(
    st.integers() | st.text(max_size=20) | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
CHANGES = st.one_of(
    st.tuples(st.just("set"), VARIABLES, VALUES),
    st.tuples(st.just("bytes"), VARIABLES, st.integers(400, 600)),
    st.tuples(st.just("alias"), VARIABLES, VARIABLES),
    *[st.tuples(st.just("mutate"), st.integers(0, 9), st.integers(1, 300))] * 4,
    st.tuples(st.just("delete"), VARIABLES),
    st.tuples(st.just("import"), VARIABLES, st.sampled_from(["json", "string", "decimal", "random"])),
    st.tuples(st.just("precision"), st.integers(1, 60)),
    st.tuples(st.just("seed"), st.integers(0, 99)),
    st.tuples(st.just("draw"), st.integers(1, 5)),
    st.tuples(st.just("function"), VARIABLES, st.integers(0, 99)),
    st.tuples(st.just("generator"), VARIABLES, st.integers(0, 99)),
    *[st.tuples(st.just("open"), VARIABLES, LINED)] * 2,
    st.tuples(st.just("chdir"), PATHS),
    *[st.tuples(st.just("file"), FILE_STEPS)] * 8,
)

# How a block ends, how that is told, whether the process of its session is gone, and what else is asked for.
ENDS = {
    "exception": ("1/0", "exit", 1, False, {}),
    "undone": ("1/0", "exit", 1, False, {"rollback_on_failure": True}),
    "SystemExit": ("raise SystemExit(3)", "exit", 3, False, {}),
    "os._exit": ("__import__('os')._exit(3)", "exit", 3, True, {}),
    "kill": ("__import__('os').kill(__import__('os').getpid(), 9)", "signal", 137, True, {}),
    "memory": ("__ = [bytes(range(256)) * 4000 for _ in range(10**6)]", "memory", 137, True, {"memory_mib": 120}),
    "timeout": ("while True: pass", "timeout", 124, True, {"wall_s": 0.2}),
}
BASH_ENDS = {
    "status": ("exit 1", True, {}),
    "undone": ("exit 1", True, {"rollback_on_failure": True}),
    "kill": ("kill -9 $$", False, {}),
    "kill, undone": ("kill -9 $$", False, {"rollback_on_failure": True}),
}

BLOCKS = st.lists(
    st.tuples(st.sampled_from(PYTHONS), st.lists(CHANGES, min_size=3, max_size=9)), min_size=1, max_size=3
)
STEPS = st.one_of(
    *[st.tuples(st.just("blocks"), BLOCKS)] * 3,
    st.tuples(st.just("fail"), st.sampled_from(PYTHONS), st.lists(CHANGES, max_size=3), st.sampled_from(sorted(ENDS))),
    st.tuples(
        st.just("bash"), st.lists(FILE_STEPS, max_size=6), st.sampled_from(["", "", *sorted(BASH_ENDS)]), st.booleans()
    ),
    st.tuples(st.just("write"), PATHS, st.integers(0, 9), st.sampled_from([0o600, 0o644, 0o755])),
    st.tuples(st.just("fill"), st.sampled_from(["many", "more"])),
    st.tuples(st.just("snapshot")),
    *[st.tuples(st.just("rollback"), st.integers(0, 12) | st.integers(0, 200))] * 2,
    st.tuples(st.just("end"), st.sampled_from([*PYTHONS, "stop", "reopen"])),
)

PROGRAM = r"""
def __do(kind, path, *rest):
    import os, shutil
    if kind in ("write", "append"):
        with open(path, "a" if kind == "append" else "w") as f: f.write(rest[0])
    elif kind == "lines":
        with open(path, "x") as f: f.writelines(f"{n}\n" for n in range(rest[0]))
    elif kind == "mkdir": os.mkdir(path)
    elif kind == "remove": shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    elif kind == "chmod": os.chmod(path, rest[0])
    elif kind == "symlink": os.symlink(rest[0], path)
    elif kind == "link": os.link(path, rest[0])
    elif kind == "rename":
        try: os.rename(path, rest[0])
        except OSError as error: print("errno", error.errno, flush=True)
def __show():
    import os, sys, zlib
    found = {}
    for name, value in globals().items():
        if name.startswith("_"): continue
        kind = type(value).__name__
        if kind == "bytearray": value = [len(value), zlib.crc32(value)]
        elif kind == "generator": value = dict(value.gi_frame.f_locals)
        elif kind == "function": value = value(3)
        elif kind == "module": value = value.__name__
        elif kind == "TextIOWrapper": value = value.tell()
        found[name] = [kind, value]
    decimal, random = (sys.modules.get(name) for name in ("decimal", "random"))
    found[""] = [os.getcwd(), decimal and decimal.getcontext().prec]
    found[""].append(random and zlib.crc32(repr(random.getstate()).encode()))
    print("shown", ascii(found), flush=True)
"""


@dataclass(eq=False)
class Entry:
    """What a name stands for. Two names of one file have the same entry."""

    kind: str
    mode: int = 0
    text: str = ""
    """Of a file its content, of a link its target."""


@dataclass(eq=False)
class Special:
    """A variable that is more than a value."""

    kind: str
    number: int
    at: int = 0


@dataclass(eq=False)
class Variables:
    """What a python session holds."""

    names: dict = field(default_factory=dict)
    folder: str = HOME
    precision: int | None = None
    """Of decimals, once that module is loaded."""
    dice: random.Random | None = None
    """The state of the module `random`, once it is loaded."""

    def shown(self) -> dict:
        """As `__show` tells it."""
        dice = self.dice and zlib.crc32(repr(self.dice.getstate()).encode())
        return {**{name: _shown(value) for name, value in self.names.items()}, "": [self.folder, self.precision, dice]}


def _shown(value) -> list:
    if isinstance(value, bytearray):
        return ["bytearray", [len(value), zlib.crc32(value)]]
    if not isinstance(value, Special):
        return [type(value).__name__, value]
    told = {
        "function": lambda: 3 * value.number,
        "generator": lambda: {"start": value.number, "at": value.at},
        "TextIOWrapper": lambda: sum(len(f"{n}\n") for n in range(value.at)),
        "module": lambda: ["json", "string", "decimal", "random"][value.number],
    }
    return [value.kind, told[value.kind]()]


@dataclass(eq=False)
class World:
    """A vm: its files, the sessions that have run something, and what its bash session holds (in a file)."""

    tree: dict = field(default_factory=dict)
    sessions: dict = field(default_factory=dict)
    shell: tuple = ((), "")

    def is_folder(self, path: str) -> bool:
        """The home, or a folder in it; nobody goes through links."""
        return path == "" or (path in self.tree and self.tree[path].kind == "folder")

    def below(self, path: str) -> list[str]:
        """A path and everything under it."""
        return [name for name in self.tree if name == path or name.startswith(f"{path}/")]

    def is_somebodys(self, path: str) -> bool:
        """Whether a session stands in that folder, or further down."""
        here = f"{HOME}/{path}"
        return any(f"{variables.folder}/".startswith(f"{here}/") for variables in self.sessions.values())

    def is_shared(self, path: str) -> bool:
        """Whether a file there has another name."""
        entries = list(self.tree.values())
        return any(entries.count(self.tree[name]) > 1 for name in self.below(path))

    def some_file(self, path: str) -> str:
        """That one, or else the first one there is."""
        if path in self.tree and self.tree[path].kind == "file":
            return path
        files = (name for name in sorted(self.tree) if self.tree[name].kind == "file" and name[0] not in "lm")
        return next(files, path)

    def part(self) -> None:
        """The files were frozen: whichever name of a file is changed next gets one of its own."""
        self.tree = {name: copy.copy(entry) for name, entry in self.tree.items()}

    def file_step(self, step) -> list | None:  # noqa: PLR0911, PLR0912  a case for each kind of step
        """Do it to the model; what the vm is asked to do, or None where it is impossible."""
        kind, path, *rest = step
        if kind == "link":
            path = self.some_file(path)
        here, target = self.tree.get(path), rest[0] if kind in ("rename", "link") else path
        if not self.is_folder(posixpath.dirname(path)) or not self.is_folder(posixpath.dirname(target)):
            return None
        if kind in ("write", "append"):
            if here is not None and here.kind != "file":
                return None
            text = str(rest[0]) * (1 + rest[0] * 300)
            here = self.tree.setdefault(path, Entry("file", 0o644))
            here.mode &= 0o777  # writing takes set-uid away
            here.text = here.text + text if kind == "append" else text
            return [kind, path, text]
        if kind in ("mkdir", "symlink"):
            if here is not None:
                return None
            self.tree[path] = Entry("folder", 0o755) if kind == "mkdir" else Entry("link", 0o777, rest[0])
            return list(step)
        if here is None or (here.kind == "folder" and kind != "chmod" and self.is_somebodys(path)):
            return None
        if kind == "remove":
            for name in self.below(path):
                del self.tree[name]
        elif kind == "chmod":
            if here.kind == "link" or (here.kind == "folder" and rest[0] not in (0o755,)):
                return None
            here.mode = rest[0]
        elif target in self.tree or (kind == "link" and here.kind != "file"):
            return None
        elif kind == "link":
            self.tree[target] = here
            return [kind, path, target]
        else:
            if target.startswith(f"{path}/"):
                return None
            for name in self.below(path):
                self.tree[target + name[len(path) :]] = self.tree.pop(name)
        return list(step)


class Block:
    """Changes as the lines of a program, done to a copy of the world meanwhile."""

    def __init__(self, world: World, session: str, changes) -> None:
        self.world, self.lines = copy.deepcopy(world), []
        self.before_rename: World | None = None
        """What it is where the folder that is renamed last does not let itself be renamed."""
        self.variables = self.world.sessions.setdefault(session, Variables())
        for kind, *rest in changes:
            if self.before_rename is None:
                self.lines += getattr(self, f"_{kind}")(*rest)

    def _file(self, step) -> list[str]:
        kind, path, *_ = step
        is_move = kind == "rename" and path in self.world.tree and self.world.tree[path].kind == "folder"
        before = copy.deepcopy(self.world) if is_move else None
        if (done := self.world.file_step(step)) is None:
            return []
        self.before_rename = before
        return [_do(done)]

    def _bind(self, name: str, value, *lines: str) -> list[str]:
        self.variables.names[name] = value
        return list(lines)

    def _set(self, name: str, value) -> list[str]:
        return self._bind(name, copy.deepcopy(value), f"{name} = {value!a}")

    def _bytes(self, name: str, times: int) -> list[str]:
        return self._bind(name, bytearray(range(256)) * times, f"{name} = bytearray(range(256)) * {times}")

    def _alias(self, name: str, other: str) -> list[str]:
        names = self.variables.names
        return self._bind(name, names[other], f"{name} = {other}") if other in names else []

    def _delete(self, name: str) -> list[str]:
        return [f"del {name}"] if self.variables.names.pop(name, self) is not self else []

    def _mutate(self, which: int, number: int) -> list[str]:  # noqa: PLR0911  a case for each kind of value
        names = sorted(self.variables.names)
        if not names:
            return []
        value = self.variables.names[name := names[which % len(names)]]
        if isinstance(value, Special):
            return self._consume(name, value, number)
        if isinstance(value, bytearray):
            value[number * 301] = number % 256
            return [f"{name}[{number * 301}] = {number % 256}"]
        if isinstance(value, list):
            value.append(number)
            value.reverse()
            return [f"{name}.append({number}); {name}.reverse()"]
        if isinstance(value, dict):
            value[str(number % 5)] = number
            return [f"{name}[{str(number % 5)!r}] = {number}"]
        if isinstance(value, int):
            return self._bind(name, value + number, f"{name} += {number}")
        if isinstance(value, str):
            return self._bind(name, value + str(number), f"{name} += '{number}'")
        return []

    def _consume(self, name: str, value: Special, number: int) -> list[str]:
        if value.kind == "generator":
            value.at += number
            return [f"for _ in range({number}): next({name})"]
        if value.kind == "function":
            value.number = number
            return [f"{name}.__defaults__ = ({number},)"]
        if value.kind == "TextIOWrapper" and value.at + 10 * number < LINES:
            value.at += 10 * number
            return [f"for _ in range({10 * number}): {name}.readline()"]
        return []

    def _import(self, name: str, module: str) -> list[str]:
        if module == "random":
            return self._bind(name, Special("module", 3), *self._seed(1), f"import random as {name}")
        if module == "decimal":
            self.variables.precision = self.variables.precision or 28
        number = ["json", "string", "decimal"].index(module)
        return self._bind(name, Special("module", number), f"import {module} as {name}")

    def _precision(self, digits: int) -> list[str]:
        self.variables.precision = digits
        return [f"__import__('decimal').getcontext().prec = {digits}"]

    def _seed(self, seed: int) -> list[str]:
        self.variables.dice = random.Random(seed)
        return [f"__import__('random').seed({seed})"]

    def _draw(self, times: int) -> list[str]:
        if self.variables.dice is None:
            return []
        for _ in range(times):
            self.variables.dice.random()
        return [f"for _ in range({times}): __import__('random').random()"]

    def _function(self, name: str, factor: int) -> list[str]:
        return self._bind(name, Special("function", factor), f"def {name}(n, factor={factor}): return n * factor")

    def _generator(self, name: str, start: int) -> list[str]:
        return self._bind(
            name,
            Special("generator", start, start),
            f"def {name}(start):\n at = start\n while True:\n  yield at\n  at += 1",
            f"{name} = {name}({start}); next({name})",
        )

    def _open(self, name: str, path: str) -> list[str]:
        """A file that is made if it is not there, and its first line."""
        lines = []
        if path not in self.world.tree:
            self.world.tree[path] = Entry("file", 0o644, "".join(f"{n}\n" for n in range(LINES)))
            lines.append(_do(["lines", path, LINES]))
        file = Special("TextIOWrapper", 0, 1)
        return self._bind(name, file, *lines, f"{name} = open('{HOME}/{path}'); {name}.readline()")

    def _chdir(self, path: str) -> list[str]:
        if not self.world.is_folder(path):
            path = ""
        self.variables.folder = posixpath.join(HOME, path).rstrip("/")
        return [f"__import__('os').chdir({self.variables.folder!a})"]


def _do(step) -> str:
    """A file step in Python; paths are absolute, since a session may stand anywhere."""
    kind, path, *rest = step
    if kind in ("rename", "link"):
        rest = [f"{HOME}/{rest[0]}"]
    return f"__do({', '.join(ascii(word) for word in (kind, f'{HOME}/{path}', *rest))})"


def _in_bash(step) -> str:
    """A file step as a command."""
    kind, path, *rest = step
    here, more = shlex.quote(path), [shlex.quote(str(word)) for word in rest]
    return {
        "write": lambda: f"printf %s {more[0]} > {here}",
        "append": lambda: f"printf %s {more[0]} >> {here}",
        "mkdir": lambda: f"mkdir {here}",
        "remove": lambda: f"rm -rf {here}",
        "rename": lambda: f"mv -T {here} {more[0]}",
        "chmod": lambda: f"chmod {rest[0]:o} {here}",
        "symlink": lambda: f"ln -sT {more[0]} {here}",
        "link": lambda: f"ln -T {here} {more[0]}",
    }[kind]()


def _unpacked(archive: bytes) -> dict:
    """What tar says of a folder: path -> kind, mode, and content or target."""
    found: dict = {}
    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8") as tar:
        for member in tar:
            path = posixpath.normpath(member.name)
            if member.islnk():
                found[path] = found[posixpath.normpath(member.linkname)]
            elif member.issym():
                found[path] = ("link", stat.S_IMODE(member.mode), member.linkname)
            elif member.isdir():
                found[path] = ("folder", stat.S_IMODE(member.mode), "")
            else:
                found[path] = ("file", stat.S_IMODE(member.mode), tar.extractfile(member).read().decode())
    assert found.pop(".") == ("folder", 0o755, "")
    return found


@dataclass
class Kept:
    """A point, and the world as it was then."""

    id: str
    world: World
    age: int
    """How many executions there were by then."""
    name: str | None = None


class Sessions(RuleBasedStateMachine):
    """Programs in sessions and beside them, snapshots, rollbacks, ends of all kinds."""

    folder = ""
    count = 0

    @initialize()
    def start(self) -> None:
        type(self).count += 1
        self.place = os.path.join(self.folder, f"s{self.count}")
        self.world, self.points, self.executions = World(), [], 0
        self.has_frozen, self.sworn = False, set()
        self.open()
        self.write("a", 1, 0o644)
        self.write("b/c", 2, 0o600)
        self.check()

    @rule(step=STEPS)
    def step(self, step) -> None:
        """One rule only: hypothesis would leave out some of several for a whole example."""
        kind, *rest = step
        getattr(self, kind)(*rest)
        self.check()

    def open(self) -> None:
        history = HistoryConfig(max_history_entries=KEPT_EXECUTIONS)
        self.box = Rewindbox(self.place, config=VmExecutionConfig(history=history))
        self.vm = self.box.vm("one")

    def teardown(self) -> None:
        if hasattr(self, "vm"):
            self.vm.remove()
            self.box.close()

    def execute(self, language: str, code: str, **options):
        """In the vm, with time enough; then see how its point was kept."""
        words = {name: options.pop(name) for name in ("wall_s", "memory_mib") if name in options}
        limits = Limits(**{"wall_s": PATIENCE_S, **words})
        execution = self.vm.execute(language, code, limits=limits, **options)
        self.executions += 1
        return execution

    def was_frozen(self, point_id: str) -> bool:
        async def method() -> str:
            return self.vm.inner._open.timeline.get_point(point_id).method

        return self.box.call(method) == "freeze"

    def keep(self, point_id: str, world: World, name: str | None = None) -> None:
        """Remember a point, and what the world was."""
        if self.was_frozen(point_id):
            self.has_frozen = True
            world.part()
        self.points.append(Kept(point_id, copy.deepcopy(world), self.executions, name))

    def check(self) -> None:
        """All files are as they should be; so are those of the point that this leaves."""
        # Status 1: to list a folder may change its time, in an overlay from which something was moved away.
        execution = self.execute("bash", "tar --warning=no-file-changed -cf - . || [ $? = 1 ]")
        assert execution.success, execution.stderr
        expected = {name: (entry.kind, entry.mode, entry.text) for name, entry in self.world.tree.items()}
        assert _unpacked(execution.stdout_bytes) == expected
        self.keep(execution.after, self.world)

    def check_variables(self) -> None:
        """Each live session has what it should have."""
        for name in sorted(self.world.sessions):
            self.run_block(name, [])

    def run_block(self, session: str, changes) -> None:
        """A block that ends well."""
        block = Block(self.world, session, changes)
        code = "\n".join([PROGRAM, "__show()", *block.lines, "__show()"])
        execution = self.execute("python", code, session=session)
        assert execution.success, execution.stderr
        before, *said, after = execution.stdout.splitlines()
        self.compare(before, self.world.sessions.get(session, Variables()))
        self.world = self.settled(block, said)
        self.compare(after, self.world.sessions[session])
        self.keep(execution.after, self.world)
        assert execution.after in self.vm.live_points()

    def settled(self, block: Block, said: list[str]) -> World:
        """The world after a block, which says whether a folder could not be renamed."""
        if not said:
            return block.world
        assert said == [f"errno {errno.EXDEV}"]
        assert self.has_frozen
        assert block.before_rename is not None
        return block.before_rename

    def compare(self, line: str, variables: Variables) -> None:
        word, _, text = line.partition(" ")
        assert word == "shown", line
        assert ast.literal_eval(text) == variables.shown()

    def blocks(self, blocks) -> None:
        for session, changes in blocks:
            self.run_block(session, changes)

    def fail(self, session, changes, end) -> None:
        """An exception leaves what was done until then, the end of the process nothing."""
        last, ended, exit_code, is_lost, options = ENDS[end]
        block = Block(self.world, session, changes)
        execution = self.execute("python", "\n".join([PROGRAM, *block.lines, last]), session=session, **options)
        assert (execution.ended, execution.exit_code) == (ended, exit_code), (execution, execution.stderr)
        left = self.settled(block, execution.stdout.splitlines())
        if is_lost:
            del left.sessions[session]
        if end != "timeout":  # of which nobody knows when it struck
            self.keep(execution.after, left)
        is_undone = is_lost or end == "undone"
        assert execution.rolled_back_to == (execution.before if is_undone else None)
        self.world = self.world if is_undone else left
        self.check_variables()

    def bash(self, steps, end, shell) -> None:
        """A program beside the sessions, or one in a session of bash."""
        left, lines = copy.deepcopy(self.world), []
        for step in steps:
            # `mv` copies a folder that cannot be renamed, which parts names of a file.
            if step[0] == "rename" and step[1] in left.tree and self.has_frozen and left.is_shared(step[1]):
                continue
            if (done := left.file_step(step)) is not None:
                lines.append(_in_bash(done))
        words, text = self.world.shell
        last, is_saved, options = BASH_ENDS.get(end, ("", True, {}))
        if shell:
            lines = ['echo "${words[*]},$text"', f"words+=({len(words)})", "text+=ü", *lines]
            left.shell = ((*words, len(words)), f"{text}ü") if is_saved else self.world.shell
        code = "\n".join([":", *lines, last])
        execution = self.execute("bash", code, session="main" if shell else None, **options)
        assert execution.stderr == ""
        assert execution.success == (end == "")
        if shell:
            assert execution.stdout == f"{' '.join(map(str, words))},{text}\n"
        self.keep(execution.after, left)
        if not options:
            self.world = left
        assert execution.rolled_back_to == (execution.before if options else None)

    def write(self, path, number, mode) -> None:
        """From outside: folders on the way are made."""
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        here = self.world.tree.get(path)
        if (here and here.kind != "file") or any(
            self.world.tree.get(folder, World).kind != "folder" for folder in above if folder in self.world.tree
        ):
            return
        for folder in above:
            self.world.tree.setdefault(folder, Entry("folder", 0o755))
        here = self.world.tree.setdefault(path, Entry("file"))
        here.mode, here.text = mode, str(number) * 100
        self.vm.write(path, here.text, mode=mode)
        self.keep(self.vm.record.tip, self.world)

    def fill(self, name) -> None:
        """So many files that a point is kept in another way."""
        if name in self.world.tree:
            if self.world.is_somebodys(name):
                return
            done = [_in_bash(self.world.file_step(("remove", name)))]
        else:
            done = [f"mkdir {name}; cd {name}; for n in {{1..110}}; do echo $n > $n; done"]
            self.world.tree[name] = Entry("folder", 0o755)
            self.world.tree |= {f"{name}/{n}": Entry("file", 0o644, f"{n}\n") for n in range(1, 111)}
        execution = self.execute("bash", done[0])
        assert execution.success, execution.stderr
        self.keep(execution.after, self.world)
        self.check_variables()

    def snapshot(self) -> None:
        """It has a name: its variables stay as long as the vm runs."""
        name = f"snapshot-{len(self.points)}"
        snapshot = self.vm.snapshot(name)
        self.keep(snapshot.point_id, self.world, name)
        if self.world.sessions:
            assert snapshot.point_id in self.vm.live_points()
            self.sworn.add(snapshot.point_id)

    def rollback(self, number) -> None:
        """Files always come back, variables where they are said to."""
        kept = self.points[-1 - number % len(self.points)]
        live = self.vm.live_points()
        assert self.sworn <= live
        assert not self.world.sessions or self.vm.record.tip in live
        try:
            rollback = self.vm.rollback(kept.name or kept.id)
        except SnapshotNotFound:  # nothing was changed
            assert kept.name is None
            assert self.executions - kept.age >= KEPT_EXECUTIONS - 1
            self.points.remove(kept)
            return
        was, back = kept.world.sessions, set(rollback.sessions)
        assert back <= set(was)
        assert (back == set(was)) == (kept.id in live or not was)
        assert set(rollback.lost) == {*was, *self.world.sessions} - back
        self.world = copy.deepcopy(kept.world)
        self.world.sessions = {name: variables for name, variables in self.world.sessions.items() if name in back}
        self.check_variables()

    def end(self, what) -> None:
        """A session begins anew when it was closed; when the vm was stopped, all do but that of bash."""
        if what in PYTHONS:
            session = self.vm.session(name=what)
            session.close()
            session.close()
            self.world.sessions.pop(what, None)
        else:
            self.world.sessions, self.sworn = {}, set()
        if what == "stop":
            self.vm.stop()
        elif what == "reopen":
            self.box.close()
            self.open()


def test_sessions(store):
    """Whatever programs do in whatever order, files and variables are what they should be, and go back together."""

    class Machine(Sessions):
        pass

    Machine.folder = str(store)
    Machine.TestCase.settings = settings(
        max_examples=scaled(6),
        stateful_step_count=40,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    Machine.TestCase().runTest()


@pytest.mark.anyio
async def test_ten_thousand_executions(box):
    """Processes, memory, descriptors and files of a vm do not grow with the number of executions in its session."""
    total = 10_000 if SOAK else 300
    every = max(150, total // 10)  # by the first look, old points go as new ones come
    vm = await box.vm("one")
    session = await vm.session()
    inside = await namespace(vm._standing.running)
    folder = Path(box.settings.folder, "vms", vm.id)
    first, times = None, []
    for number in range(1, total + 1):
        began = time.perf_counter()
        execution = await session.execute(_small_change(number))
        times.append(time.perf_counter() - began)
        assert execution.success, execution.stderr
        if number % every == 0:
            await eventually(partial(_is_at_rest, inside), "checkpoints that were given up are gone")
            found = Size.of(inside, folder)
            first = first or found
            print(f"{number}: {statistics.median(times) * 1000:.2f} ms an execution; {found}")
            found.must_be_no_more_than(first)
            times.clear()
    assert (await session.execute("len(numbers), big[7]")).result == "(50, 7)"


def _small_change(number: int) -> str:
    if number == 1:
        return "numbers = {}; big = bytearray(range(256)) * 400"
    change = f"numbers[{number} % 50] = [{number}] * 10; big[{number * 301 % 100_000}] = 7"
    if number % 5 == 0:
        change += f"; open('f{number % 7}', 'w').write('{number}' * 100)"
    return change


def _is_at_rest(inside: str) -> bool:
    return len(members(inside)) <= PROCESSES_MAX


@dataclass(frozen=True)
class Size:
    """What a vm is to the host."""

    processes: int
    pss_mib: float
    """Memory of all its processes and of its supervisor, shared pages divided among who shares them."""
    descriptors: int
    """Of the supervisor."""
    disk_mib: float
    files: int

    @classmethod
    def of(cls, inside: str, folder: Path) -> "Size":
        """Measure it. What is not ours to see counts as nothing."""
        pids = members(inside)
        statuses = [status_of(pid) for pid in pids]
        supervisor = next(int(status["PPid"]) for status in statuses if status["NSpid"].split()[-1] == "1")
        blocks = list(_blocks(folder))
        return cls(
            len(pids),
            sum(_pss_kib(pid) for pid in (supervisor, *pids)) / 1024,
            _descriptors(supervisor),
            sum(dict(blocks).values()) * 512 / 2**20,
            len(blocks),
        )

    def must_be_no_more_than(self, first: "Size") -> None:
        """But for what comes and goes: a few checkpoints on their way out, some layers before the next sweep."""
        assert self.processes <= PROCESSES_MAX
        assert self.pss_mib <= first.pss_mib + 16
        assert self.descriptors <= first.descriptors + 8
        assert self.disk_mib <= first.disk_mib + 4
        assert self.files <= first.files + 1500


def _blocks(folder: Path) -> Iterator[tuple[int, int]]:
    """Inode and size of everything in a folder, from which something may go meanwhile."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                status = Path(place, name).lstat()
                yield status.st_ino, status.st_blocks


def _pss_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


@pytest.mark.anyio
async def test_often_to_the_same_point(box):
    """A point can be gone back to as often as one likes, and is always the same."""
    vm = await box.vm("one")
    session = await vm.session()
    execution = await session.execute(
        "numbers = [1]; text = 'a'; rest = iter(range(9)); next(rest); open('f', 'w').write('a')"
    )
    look = "numbers, text, next(rest), open('f').read()"
    for number in range(50):
        told = await session.execute(
            f"numbers.append({number}); text += 'b'; numbers, text, next(rest), open('f').read()"
        )
        assert told.result == f"([1, {number}], 'ab', 1, 'a')"
        await session.execute(f"del text; open('f', 'w').write('{number}')")
        assert (await vm.rollback(execution.after)).sessions == ("main",)
    assert (await session.execute(look)).result == "([1], 'a', 1, 'a')"


@pytest.mark.anyio
async def test_thirty_sessions(box):
    """However many sessions a vm has, they go back together."""
    vm = await box.vm("one")
    sessions = [await vm.session(name=f"s{number}") for number in range(30)]
    for number, session in enumerate(sessions):
        point = (await session.execute(f"x = {number}; open('f{number}', 'w').close()")).after
    for session in sessions[::2]:
        assert (await session.execute("import os; x = os.unlink(f'f{x}')")).success
    rollback = await vm.rollback(point)
    assert (set(rollback.sessions), rollback.lost) == ({session.name for session in sessions}, ())
    told = [(await session.execute("import os; x, len(os.listdir())")).result for session in sessions]
    assert told == [f"({number}, 30)" for number in range(30)]
