"""A real vm against a dictionary: whatever is done in whatever order, every point is what it was."""

import json
import posixpath

from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import skeletons
from conftest import PATIENCE_S, remove, run, scaled
from rewindbox import backends

HOME = "/home/agent"
NAMES = st.sampled_from(["a", "b", "c", "ü", "n" * 200])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
STEPS = st.one_of(
    st.tuples(st.just("write"), PATHS, st.integers(0, 9)),
    st.tuples(st.just("append"), PATHS, st.integers(0, 9)),
    st.tuples(st.just("mkdir"), PATHS),
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o600, 0o644, 0o755, 0o4755])),
    st.tuples(st.just("symlink"), PATHS, NAMES),
)

PROGRAM = r"""
import json, os, shutil, stat, sys
def do(kind, path, *rest):
    if kind in ("write", "append"):
        with open(path, "a" if kind == "append" else "w") as f: f.write(rest[0])
    elif kind == "mkdir": os.mkdir(path)
    elif kind == "remove": shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    elif kind == "rename": shutil.move(path, rest[0])
    elif kind == "chmod": os.chmod(path, rest[0])
    elif kind == "symlink": os.symlink(rest[0], path)
    elif kind == "fill":
        os.mkdir(path)
        for n in range(rest[0]):
            with open(f"{path}/{n}", "w") as f: f.write(str(n))
os.umask(0o022)
for step in json.load(sys.stdin): do(*step)
tree, waiting = {}, [""]
while waiting:
    path = waiting.pop()
    for name in os.listdir(path or "."):
        here = os.path.join(path, name)
        status = os.lstat(here)
        if stat.S_ISLNK(status.st_mode): tree[here] = ["link", os.readlink(here)]
        elif stat.S_ISDIR(status.st_mode): tree[here] = ["folder", stat.S_IMODE(status.st_mode)]; waiting.append(here)
        else:
            with open(here) as f: tree[here] = ["file", stat.S_IMODE(status.st_mode), f.read()]
print(json.dumps(tree))
"""


def below(tree, path):
    """A path and everything under it."""
    return [name for name in tree if name == path or name.startswith(f"{path}/")]


def imagine(tree, step):  # noqa: PLR0911, PLR0912  a case for each kind of step
    """The step as the vm is asked to do it, done to the model; None where it is impossible."""
    kind, path, *rest = step
    parent = posixpath.dirname(path)
    if parent and tree.get(parent, [""])[0] != "folder":
        return None
    here = tree.get(path)
    if kind in ("write", "append"):
        if here is not None and here[0] != "file":
            return None
        old = here[2] if here and kind == "append" else ""
        text = str(rest[0]) * (1 + rest[0] * 300)
        mode = here[1] & 0o777 if here else 0o644  # writing takes set-uid away
        tree[path] = ["file", mode, old + text]
        return [kind, path, text]
    if kind in ("mkdir", "symlink"):
        if here is not None:
            return None
        tree[path] = ["folder", 0o755] if kind == "mkdir" else ["link", rest[0]]
        return list(step)
    if here is None:
        return None
    if kind == "remove":
        for name in below(tree, path):
            del tree[name]
    elif kind == "chmod":
        if here[0] != "file":
            return None
        here[1] = rest[0]
    elif kind == "rename":
        target = rest[0]
        above = posixpath.dirname(target)
        if target in tree or f"{target}/".startswith(f"{path}/") or (above and tree.get(above, [""])[0] != "folder"):
            return None
        for name in sorted(below(tree, path)):
            tree[target + name[len(path) :]] = tree.pop(name)
    return list(step)


class Points(RuleBasedStateMachine):
    """Write, take points, go to any of them, start again."""

    backend_name = ""
    folder = None
    count = 0

    @initialize()
    def start(self) -> None:
        type(self).count += 1
        self.tree, self.points, self.changed = {}, [], False
        self.portal_of = start_blocking_portal()
        self.portal = self.portal_of.__enter__()
        self.backend = backends.load(self.backend_name, str(self.folder / "vms"))
        self.vm = self.portal.call(self.backend.create, f"vm_{self.count}")

    def teardown(self) -> None:
        if hasattr(self, "vm"):
            self.portal.call(self.backend.destroy, self.vm.id)
            self.portal.call(self.backend.close)
            self.portal_of.__exit__(None, None, None)

    def do(self, steps) -> dict:
        outcome = self.portal.call(
            lambda: run(self.vm, PROGRAM, "python", stdin=json.dumps(steps).encode(), wall_s=PATIENCE_S)
        )
        assert outcome.exit_code == 0, outcome.stderr.decode()
        return json.loads(outcome.stdout)

    @rule(steps=st.lists(STEPS, min_size=1, max_size=12))
    def change(self, steps) -> None:
        possible = [done for step in steps if (done := imagine(self.tree, step)) is not None]
        assert self.do(possible) == self.tree

    @rule(name=st.sampled_from(["many", "more"]), count=st.sampled_from([5, 90, 150]))
    def fill(self, name, count) -> None:
        """So many files that a point is kept in another way."""
        steps = []
        if name in self.tree:
            steps.append(imagine(self.tree, ("remove", name)))
        steps.append(["fill", name, count])
        self.tree[name] = ["folder", 0o755]
        self.tree.update({f"{name}/{n}": ["file", 0o644, str(n)] for n in range(count)})
        assert self.do(steps) == self.tree

    @rule()
    def take(self) -> None:
        taken = self.portal.call(self.vm.take_point)
        self.points.append((taken.state, json.dumps(self.tree)))

    @rule(times=st.integers(2, 6))
    def take_many(self, times) -> None:
        """Every one with something new in it, as executions leave them."""
        for number in range(times):
            assert self.do([step for step in [imagine(self.tree, ("write", "a", number))] if step]) == self.tree
            self.take()

    @precondition(lambda self: self.points)
    @rule(data=st.data())
    def go(self, data) -> None:
        state, tree = data.draw(st.sampled_from(self.points))
        self.portal.call(self.vm.go_to, state)
        self.tree = json.loads(tree)
        assert self.do([]) == self.tree

    @precondition(lambda self: self.points)
    @rule(data=st.data())
    def compare(self, data) -> None:
        """What has changed since a point is what the model says; a file that was written anew may be told, too."""
        state, text = data.draw(st.sampled_from(self.points))
        told = {
            file.path.removeprefix(f"{HOME}/"): file.change for file in self.portal.call(self.vm.changes, state).files
        }
        then = json.loads(text)
        assert {path for path, change in told.items() if change == "created"} == self.tree.keys() - then.keys()
        assert {path for path, change in told.items() if change == "deleted"} == then.keys() - self.tree.keys()
        modified = {path for path, change in told.items() if change == "modified"}
        both = self.tree.keys() & then.keys()
        assert {path for path in both if self.tree[path] != then[path]} <= modified
        assert all(self.tree[path][0] == "file" for path in modified if self.tree[path] == then[path])

    @rule(knows_point=st.booleans())
    def start_again(self, knows_point) -> None:
        state = None
        if knows_point:
            self.take()
            state = self.points[-1][0]
        self.portal.call(self.vm.stop)
        self.vm = self.portal.call(self.backend.create, self.vm.id, self.vm.live, state)
        assert self.do([]) == self.tree

    @precondition(lambda self: len(self.points) > 3)
    @rule(data=st.data())
    def forget(self, data) -> None:
        """Let the states of some points go; the others stay."""
        keep = data.draw(st.lists(st.sampled_from(range(len(self.points))), unique=True))
        self.points = [self.points[number] for number in sorted(keep)]
        self.vm.sweep([state for state, _ in self.points])

    @invariant()
    def alive(self) -> None:
        assert not hasattr(self, "vm") or self.vm.live


def test_points(backend_name, tmp_path):
    """In whatever order files change, points are taken and gone to, and the vm starts again, all is as it was."""

    class Machine(Points):
        pass

    Machine.backend_name, Machine.folder = backend_name, tmp_path
    Machine.TestCase.settings = settings(
        max_examples=scaled(8),
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    skeletons.lend(tmp_path / "vms")
    try:
        Machine.TestCase().runTest()
    finally:
        remove(tmp_path / "vms")
