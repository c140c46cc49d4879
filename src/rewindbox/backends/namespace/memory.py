"""How much memory a job uses, counted from outside, for a host where the kernel does not count it for us.

Cheap first: the resident sets added up, by how much the host's shared memory, page tables and other memory of the
kernel have grown since the job began, and what its sockets could hold. All are too high (processes share libraries;
others use the host, too), so only when their sum passes the limit is it counted exactly. What the kernel shows slowly
is then read where it can matter; what it does not show is taken to be what the host has more of than before.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from rewindbox.backends.namespace import kernel, lists, occupied, parked
from rewindbox.backends.namespace.growth import PINNED, UNLISTED, Growth, host_bytes
from rewindbox.backends.namespace.machine import MEMORY
from rewindbox.backends.namespace.processes import entries, processes

_OWN_FILES = 16
"""In the vm's memory, and a few more."""
_ATTRIBUTES_MAX_BYTES = 256 << 10
"""Two access lists of 64 KiB each, which take more in memory."""
_FILE_BYTES = 1536
"""An empty file in memory: its inode and its name, which may be long."""
_UNSETTLED_BYTES = 8 << 20
"""So little is not worth a look at what processes have open."""
_MEMFD, _SOCKET, _WATCHER = "/memfd:", "socket:", "anon_inode:inotify"
_SHARED, _LISTED = b"Shmem:", (b"SUnreclaim:", b"VmallocUsed:")
_TABLES = b"PageTables:"
_ELSEWHERE = (_SHARED, _TABLES, PINNED, *_LISTED)
_LOOKED_AT = (*_ELSEWHERE, UNLISTED)
_OWN_SOCKETS_BYTES = 16 << 10
"""What lies in the supervisor's own, which are in the vm's network namespace: 5 KiB were seen."""


class Memory:
    """The memory of everything that runs in one vm during one job, or of its live sessions."""

    def __init__(self, proc: int, ipc_ns: Callable[[], int], growth: Growth) -> None:
        """`proc`: a descriptor of the vm's /proc. `ipc_ns` gives that of the job's ipc namespace.

        `growth`: of the host, as far as it was theirs before.
        """
        self._proc, self._ipc_ns, self._growth = proc, ipc_ns, growth
        self._settled: dict[bytes, int] | None = None
        self.go_on()

    def go_on(self) -> None:
        """From now on what the host has more of may be theirs, until now it was not."""
        self._growth.go_on(host_bytes(*_LOOKED_AT))

    def note(self) -> None:
        """Nobody looks for a while: what the host has more of by now stays theirs."""
        known = self._growth.until(host_bytes(*_LOOKED_AT))
        if known[UNLISTED] > _UNSETTLED_BYTES:
            known[UNLISTED] = min(known[UNLISTED], parked.most_left_behind_bytes()[1])

    def settle(self, pids: list[int]) -> None:
        """Of that only what these may have out of sight; else others' ups would add up over a session's executions."""
        known = self._growth.known
        if known is self._settled or sum(known.get(name, 0) for name in (_SHARED, *_LISTED)) < _UNSETTLED_BYTES:
            return
        is_hidden, listed = self._out_of_sight(pids, _opened(self._proc, pids), known)
        self._settled = known | {_SHARED: known[_SHARED] if is_hidden else 0, _TABLES: 0}
        self._settled |= {name: min(known[name], listed) for name in _LISTED}
        self._growth.become(self._settled)

    def used_bytes(self, pids: list[int], resident_bytes: float, limit_bytes: int) -> int:
        """What is in use: an estimate that is never too low, or, where that passes the limit, `exact_bytes`."""
        estimate = int(resident_bytes)
        grown = self._growth.until(host_bytes(*_LOOKED_AT))
        elsewhere = sum(grown[name] for name in _ELSEWHERE)
        elsewhere += parked.most_in_sockets_bytes() + _most_in_attributes_bytes()
        if estimate + elsewhere <= limit_bytes:
            return estimate
        return self.exact_bytes(pids, limit_bytes)

    def exact_bytes(self, pids: list[int], limit_bytes: int) -> int:
        """Every page once, if nobody forks meanwhile: what a fork comes to share is counted too often.

        None of a file on the disk: the kernel takes those back, mapped or not, and what a program has given back
        (`MADV_FREE`). What it shows as such and cannot take back, packets that lie mapped, the filter refuses.
        Where nothing that is slow to see can make it pass the limit, that is left out.
        """
        private, mapped = 0, 0
        for pid in pids:
            sizes = _proportional_kib(self._proc, pid)
            mapped += sizes.get(b"Pss_Shmem:", 0)
            private += sizes.get(b"Pss_Anon:", 0) - _least_given_back_kib(sizes)
        opened = _opened(self._proc, pids)
        grown = self._growth.until(host_bytes(*_LOOKED_AT))
        in_sockets = parked.sockets_bytes()
        own = private * 1024 + parked.tables_bytes(self._proc, pids) + in_sockets
        own += min(parked.most_left_behind_bytes()[1], grown[UNLISTED])
        # Pages that pipes and sockets hold: nobody who has nothing lying there answers for what others have.
        if grown[PINNED] > _UNSETTLED_BYTES and (opened.parks or in_sockets > _OWN_SOCKETS_BYTES):
            own += grown[PINNED]
        elif grown[PINNED] > _UNSETTLED_BYTES:
            own += min(parked.most_in_pipes_bytes(self._proc, pids), grown[PINNED])
        # Mapped and unmapped shared memory overlap; counting both would end a program that does no harm.
        shared = max(mapped * 1024, self._unmapped_bytes(opened.memory))
        most_listed = sum(grown[name] for name in _LISTED)
        if own + shared + grown[_SHARED] + most_listed <= limit_bytes:
            return own + shared
        is_hidden, listed = self._out_of_sight(pids, opened, grown)
        return own + (max(shared, grown[_SHARED]) if is_hidden else shared) + listed

    def _out_of_sight(self, pids: list[int], opened: "_Opened", grown: dict[bytes, int]) -> tuple[bool, int]:
        """Whether memory of theirs cannot be seen, and the most that the kernel has for them, as far as it has grown.

        Files that lie in a socket, and pages of files that only a mapping holds, cannot be seen: then what the host
        has more of than before is taken to be theirs; all of it also where lists are too long.
        """
        there, most_bytes = len(processes(self._proc)) + 1, sum(grown[name] for name in _LISTED)
        try:
            found = lists.of(self._proc, pids, there)
        except lists.TooLong:
            return True, most_bytes
        if opened.parks:
            return True, most_bytes
        size_bytes = found.size_bytes + parked.most_in_options_bytes() + sum(parked.most_left_behind_bytes())
        size_bytes += opened.watchers * parked.most_queued_bytes()
        size_bytes += _system_v_bytes(self._ipc_ns(), lambda: parked.most_undone_bytes(there))
        return not found.memory <= opened.memory.keys(), min(size_bytes, most_bytes)

    def _unmapped_bytes(self, files: dict[int, int]) -> int:
        """Memory files, the vm's /run and /dev/shm, what System V has, whoever has them mapped."""
        scratch = os.statvfs(MEMORY)
        used = (scratch.f_blocks - scratch.f_bfree) * scratch.f_frsize + _own_files(scratch) * _FILE_BYTES
        used += occupied.usage(MEMORY, occupied.in_attributes).size_bytes
        return used + sum(files.values()) + _system_v_bytes(self._ipc_ns(), parked.system_v_bytes)


def _most_in_attributes_bytes() -> int:
    """More than all attributes of files in the vm's memory can take: so many files, times the most that one has."""
    return _own_files(os.statvfs(MEMORY)) * _ATTRIBUTES_MAX_BYTES


def _own_files(scratch: os.statvfs_result) -> int:
    """How many the code has made there."""
    return max(scratch.f_files - scratch.f_ffree - _OWN_FILES, 0)


def proportional_bytes(proc: int, pid: int) -> int:
    """What a process has in memory; what it shares counts as its share."""
    return _proportional_kib(proc, pid).get(b"Pss:", 0) * 1024


def _proportional_kib(proc: int, pid: int) -> dict[bytes, int]:
    """Pss: the resident set with shared pages divided among those who share them."""
    try:
        with open(os.open(f"{pid}/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), "rb") as file:
            lines = file.read(8192).splitlines()
    except OSError:  # it ended meanwhile
        return {}
    return {parts[0]: int(parts[1]) for line in lines if len(parts := line.split()) == 3 and parts[2] == b"kB"}


def _least_given_back_kib(sizes: dict[bytes, int]) -> int:
    """Of pages that others share Pss has a part only, but all of them are in `LazyFree`: none of those count here."""
    return max(sizes.get(b"LazyFree:", 0) - sizes.get(b"Shared_Clean:", 0), 0)


@dataclass
class _Opened:
    """What processes have open."""

    memory: dict[int, int] = field(default_factory=dict)
    """Inode -> size of memory files."""
    parks: bool = False
    """Whether descriptors lie in a socket of theirs."""
    watchers: int = 0
    """How many watch files."""

    def look(self, proc: int, pid: int) -> None:
        """Add those of a process."""
        with entries(proc, f"{pid}/fd") as (folder, names):
            for name in names:
                with contextlib.suppress(OSError):  # closed meanwhile
                    target = os.readlink(name, dir_fd=folder)
                    if target.startswith(_MEMFD):
                        status = os.stat(name, dir_fd=folder)
                        self.memory[status.st_ino] = status.st_blocks * 512
                    elif target.startswith(_SOCKET):
                        self.parks = self.parks or parked.is_parking(proc, pid, name)
                    elif target == _WATCHER:
                        self.watchers += 1


def _opened(proc: int, pids: list[int]) -> _Opened:
    opened = _Opened()
    for pid in pids:
        opened.look(proc, pid)
    return opened


def _system_v_bytes(ipc_ns: int, counted: Callable[[], int]) -> int:
    """What of System V is counted so: in files that show the reader's ipc namespace, which is to be the job's."""
    try:
        kernel.setns(ipc_ns, kernel.NEWIPC)  # we use none ourselves
        return counted()
    except (OSError, ValueError, IndexError):
        return 0
