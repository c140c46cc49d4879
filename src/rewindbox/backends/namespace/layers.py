"""The files of a vm: what it stands on, the points taken of it, going back to one.

A state is `{"layers": [frozen, bottom first], "copy": name or null}`. While the upper layer is small, a point
is a copy of it (unchanged files are hard links to the last copy) and the running vm is not disturbed; above
that, the upper itself is frozen and the vm moves onto a new one: 0.7 ms whatever it holds, but from then on
`rename` of an older folder gives EXDEV and the first append to an older big file copies it.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Collection
from itertools import takewhile
from typing import Any

from rewindbox.backends.namespace import folds, likeness, occupied, trees
from rewindbox.backends.namespace.changes import Comparison
from rewindbox.backends.namespace.machine import LAYER_NAME, SHARED, Damaged, Machine, StepFailed

COPY_MAX_FILES = 100
COPY_MAX_BYTES = 2 << 20
FOLD_AT = 40
"""Lookups in a folder that all layers have cost about 0.4 us a layer; folding costs 14 us a file."""
LAYERS_MAX = 400
"""The kernel takes 500, and mount(2) one page of names."""

State = dict[str, Any]


class Layers:
    """The files of one running vm."""

    def __init__(self, machine: Machine, live: State | None, point: State | None) -> None:
        """On the files of `live`, or new. `point`: the state that `live` is known to be exactly, if any."""
        self.machine = machine
        self.layers: list[str] = list(live["layers"]) if live else []
        self.upper: str = live["upper"] if live else machine.new_name("u")
        for name in (*self.layers, *([self.upper] if live else ())):
            check_layer(name)
        if live is None:
            os.mkdir(self.upper)
            os.chmod(self.upper, 0o755)
            point = {"layers": [], "copy": None}
        machine.move_onto(self.layers, self.upper)
        self._point: State | None = None
        self._unsettled: State | None = None
        self._signature: trees.Signature | None = None
        self._young: set[str] = set()
        """What may have changed since without another change time."""
        self._going: set[str] = set()
        """What earlier sweeps are deleting: two at one tree would be in each other's way."""
        if point is not None and self._is_small():
            self._remember({"layers": point["layers"], "copy": point["copy"]})

    @property
    def live(self) -> State:
        """What the vm stands on now."""
        return {"layers": self.layers, "upper": self.upper}

    def _remember(self, point: State) -> None:
        """The upper is, at this moment, exactly what `point` says."""
        since_ns = likeness.now_ns()
        try:
            self._signature = trees.signature(self.upper, COPY_MAX_FILES * 2, COPY_MAX_BYTES * 2)
            self._point, self._young = point, likeness.young(self._signature, since_ns)
        except (trees.TooBig, OSError):  # a copy that was made because somebody wrote, or somebody does
            self._point = self._signature = None

    def _is_small(self) -> bool:
        try:
            trees.signature(self.upper, COPY_MAX_FILES, COPY_MAX_BYTES)
        except trees.TooBig:
            return False
        return True

    def take_point(self, changing: Collection[str] | None = ()) -> dict[str, Any]:
        """Keep the files as they are. No process of the vm may run.

        `changing`: absolute paths of files that somebody has mapped for writing, without a trace. None: any may be.
        """
        try:
            since_ns = likeness.now_ns()
            found = self._seen(COPY_MAX_FILES, COPY_MAX_BYTES, changing)
            if self._point is not None and found == self._signature:
                self._young &= likeness.young(found, since_ns)
                return self._taken("same", 0)
            return self._copy(found, since_ns)
        except (trees.TooBig, trees.Uncopied):  # what is frozen is what was there
            return self._freeze(changing)

    def _seen(self, max_files: int, max_bytes: int, changing: Collection[str] | None) -> trees.Signature:
        found = trees.signature(self.upper, max_files, max_bytes)
        for path in list(found) if changing is None else [name.strip("/") for name in changing]:
            if path in found:
                inode, _, size, mode = found[path]
                found[path] = (inode, -time.monotonic_ns(), size, mode)  # unlike any other
        self._forget_unlike(found)
        return found

    def _forget_unlike(self, found: trees.Signature) -> None:
        """What has the change time that it had at the last point, and yet is another one, is not known any more."""
        copy, before = self._point and self._point["copy"], self._signature
        if copy and before:
            same = [path for path in self._young if found.get(path) == before.get(path)]
            for path in likeness.unlike(self.upper, copy, same):
                before.pop(path, None)

    def _copy(self, found: trees.Signature, since_ns: int) -> dict[str, Any]:
        name = self.machine.new_name("c")
        previous = self._point["copy"] if self._point else None
        try:
            written = trees.copy(self.upper, name, found, previous, self._signature)
        except OSError:
            trees.delete(name)
            raise
        self._point, self._signature = {"layers": self.layers, "copy": name}, found
        self._young = likeness.young(found, since_ns)
        return self._taken("copy", written)

    def _freeze(self, changing: Collection[str] | None) -> dict[str, Any]:
        """The upper becomes a layer. Whoever still writes to it (EBUSY) is not disturbed: then we copy it."""
        layers = self._folded([*self.layers, self.upper])
        try:
            self._move(layers, None, freezing=True)
        except StepFailed as failure:
            if failure.cause.errno != errno.EBUSY:
                raise
            try:
                since_ns = likeness.now_ns()
                found = self._seen(1 << 31, 1 << 62, changing)
            except trees.TooBig:  # nested too deep for paths: there is no other way
                raise failure from None
            return self._copy(found, since_ns)
        self._remember({"layers": self.layers, "copy": None})
        return self._taken("freeze", 0)

    def _folded(self, layers: list[str]) -> list[str]:
        if len(layers) < FOLD_AT:
            return layers
        name = self.machine.new_name("f")
        try:
            folds.fold(layers, self.machine.skeleton, name)
        except OSError:
            trees.delete(name)
            if len(layers) < LAYERS_MAX:
                return layers
            raise
        return [name]

    def go_to(self, state: State, before_move: Callable[[], None]) -> None:
        """Put the vm back to `state`. After `before_move` no process of the vm may run."""
        layers, copy = _of(state)
        self._move(layers, copy, before_move=before_move)
        self._unsettled = {"layers": layers, "copy": copy}

    def settle(self) -> None:
        """What was left for later; call before anything of the vm can run. 0.15 ms."""
        if self._unsettled is not None:
            point, self._unsettled = self._unsettled, None
            self._remember(point)

    def _move(
        self,
        layers: list[str],
        copy: str | None,
        *,
        freezing: bool = False,
        before_move: Callable[[], None] | None = None,
    ) -> None:
        """Onto a fresh upper above `layers` that has the files of `copy`: a real copy, since the code will
        write into it; a copy as one more layer would make every folder in it refuse to be renamed."""
        upper = self.machine.new_name("u")
        try:
            if copy:
                trees.copy(copy, upper, trees.signature(copy, 1 << 31, 1 << 62))
            else:
                os.mkdir(upper)
                os.chmod(upper, 0o755)
            self.machine.move_onto(layers, upper, freezing=freezing, before_move=before_move)
        except BaseException:
            trees.delete(upper)
            raise
        self.layers, self.upper = layers, upper

    def _taken(self, method: str, written: int) -> dict[str, Any]:
        return {"state": self._point, "live": self.live, "method": method, "written_bytes": written}

    def changes_since(self, state: State) -> dict[str, Any]:
        """What has become of the vm's files since `state`; see changes.py."""
        layers, copy = _of(state)
        now, then = [*self.layers, self.upper], [*layers, *([copy] if copy else ())]
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(now, then, strict=False))))
        root, top = os.dup(self.machine.root), self.machine.look_at(then)
        try:
            return Comparison(root, top, [*now[shared:], *then[shared:]], SHARED).run()
        finally:
            os.close(root)
            os.close(top)

    def usage(self) -> occupied.Usage:
        """What the vm's own files occupy, without the points that were taken of them."""
        weight = occupied.on_disk()
        parts = [occupied.usage(name, weight) for name in (*self.layers, self.upper)]
        return occupied.Usage(sum(part.files for part in parts), sum(part.size_bytes for part in parts))

    def sweep(self, keep: Collection[str]) -> None:
        """Delete what is not needed. What goes is decided now; it may take long, and nothing asks for it again."""
        going = set(self._unneeded(keep)) - self._going
        self._going |= going
        threading.Thread(target=self._delete, args=(going,), daemon=True).start()

    def _delete(self, names: set[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):  # the next sweep tries again
                trees.delete(name)
            self._going.discard(name)

    def _unneeded(self, keep: Collection[str]) -> list[str]:
        """The layers that neither `keep` nor the running vm needs, and scratch folders of mounts long gone."""
        needed = {*keep, *self.layers, self.upper}
        if self._point:
            needed |= {*self._point["layers"], self._point["copy"]}
        scratch = f"w{self.upper[1:]}-"
        return [
            name
            for name in os.listdir(".")
            if (LAYER_NAME.fullmatch(name) and name not in needed)
            or (name.startswith("w") and not name.startswith(scratch))
        ]


def _of(state: State) -> tuple[list[str], str | None]:
    """The layers and the copy of a state. Raises Damaged: one is not there."""
    layers, copy = list(state["layers"]), state["copy"]
    for name in (*layers, *([copy] if copy else ())):
        check_layer(name)
    return layers, copy


def check_layer(name: str) -> None:
    """Raises Damaged unless `name` is a layer's name and a folder of that name is here."""
    if not LAYER_NAME.fullmatch(name):
        raise Damaged(f"{name!r} is no name of a layer")
    if not os.path.isdir(name) or os.path.islink(name):
        raise Damaged(f"the layer {name} is gone or is no folder")
