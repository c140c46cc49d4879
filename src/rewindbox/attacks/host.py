"""What of the host an attack could reach, put up for it: servers, files and memory that nobody may come to.

All of it is made by us, and gone when it is closed. What an attack may not change is looked at before and after.
"""

import contextlib
import ctypes
import hashlib
import os
import pwd
import secrets
import shutil
import socket
import tempfile
from types import TracebackType

from rewindbox.backends.namespace import seccomp

_SETTINGS = ("core_pattern", "hostname", "domainname", "panic", "overflowuid")
_IPC_CREAT, _IPC_EXCL, _IPC_RMID = 0o1000, 0o2000, 0
_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """Canaries and servers of the host, for as long as the `with` block."""

    def __init__(self) -> None:
        self.secret = f"canary-{secrets.token_hex(8)}"
        self._stack = contextlib.ExitStack()
        try:
            self._put_up()
        except BaseException:
            self._stack.close()
            raise
        self._before = self.look()

    def __enter__(self) -> "Host":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _put_up(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="rewindbox-host-")
        self._stack.callback(shutil.rmtree, self.folder)
        os.chmod(self.folder, 0o755)
        self.canary, self.socket_name = f"{self.folder}/canary", f"{self.folder}/socket"
        with open(self.canary, "x", encoding="ascii") as file:
            file.write(self.secret)
        os.chmod(self.canary, 0o666)
        os.makedirs(f"{self.folder}/home/.ssh")
        self._abstract_name = f"rewindbox-{secrets.token_hex(8)}"
        self._servers = {
            "tcp": self._server(socket.AF_INET, ("127.0.0.1", 0)),
            "abstract": self._server(socket.AF_UNIX, f"\0{self._abstract_name}"),
            "file": self._server(socket.AF_UNIX, self._short(self.socket_name)),
        }
        os.chmod(self.socket_name, 0o777)
        self._port = self._servers["tcp"].getsockname()[1]
        with contextlib.suppress(OSError):  # no IPv6 here
            self._servers["tcp6"] = self._server(socket.AF_INET6, ("::1", self._port))
        self._datagrams = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._datagrams.bind(("127.0.0.1", 0))
        self._datagrams.setblocking(False)
        self._free_port = _free_port()
        self._key = self._segment()

    def _server(self, family: int, address: object) -> socket.socket:
        server = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        server.bind(address)  # type: ignore[arg-type]  # of the family
        server.listen()
        server.setblocking(False)
        return server

    def _short(self, path: str) -> str:
        """Another name of it, for an address may have 108 bytes."""
        folder = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
        self._stack.callback(os.close, folder)
        return f"/proc/self/fd/{folder}/{os.path.basename(path)}"

    def _segment(self) -> int:
        """The key of a page of shared memory that everybody on the host may read."""
        while True:
            key = secrets.randbelow(1 << 30) + 1
            segment = _libc.shmget(key, 4096, _IPC_CREAT | _IPC_EXCL | 0o666)
            if segment >= 0:
                self._stack.callback(_libc.shmctl, segment, _IPC_RMID, None)
                return key
            if ctypes.get_errno() != 17:  # EEXIST
                return 0

    def look(self) -> dict[str, str]:
        """What must not change."""
        found = {name: _text(f"/proc/sys/kernel/{name}") for name in _SETTINGS}
        found["canary"], found["beside"] = _text(self.canary), " ".join(sorted(os.listdir(self.folder)))
        with open("/usr/bin/env", "rb") as file:
            found["env"] = hashlib.sha256(file.read()).hexdigest()
        found["programs"] = str(os.stat("/usr/bin").st_mtime_ns)
        return found

    def touched(self) -> list[str]:
        """What has been changed or visited since we last asked, and who could be reached where nobody should be."""
        after = self.look()
        changed = [f"the host's {name} has changed" for name in after if after[name] != self._before[name]]
        self._before = after
        visits = [f"somebody came to the host's server ({name})" for name in self._visits()]
        return changed + visits + self._reached()

    def _visits(self) -> list[str]:
        visits = []
        for name, server in self._servers.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    server.accept()[0].close()
                    visits.append(name)
        with contextlib.suppress(BlockingIOError):
            while self._datagrams.recv(100):
                visits.append("udp")
        return visits

    def _reached(self) -> list[str]:
        try:
            socket.create_connection(("127.0.0.1", self._free_port), 1).close()
        except OSError:
            return []
        return ["a server of the vm answers on the host"]

    def fill_in(self, code: str) -> str:
        """The code with the names of this host in it; secrets reversed, so that they are not in the code."""
        names = {
            "NUMBERS": seccomp.refused_calls(os.uname().machine),
            "PORT": self._port,
            "UDP": self._datagrams.getsockname()[1],
            "FREE": self._free_port,
            "ADDRESS": _address(),
            "ABSTRACT": self._abstract_name,
            "SOCKET": self.socket_name,
            "CANARY": self.canary,
            "SECRET": self.secret[::-1],
            "KEY": self._key,
            "NODE": os.uname().nodename[::-1],
            "PID": os.getpid(),
            "USER": _user(),
            "HOME": os.path.expanduser("~"),
            "OTHER": f"{self.folder}/home",
        }
        for name, value in names.items():
            code = code.replace(f"@{name}@", str(value))
        return code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _address() -> str:
    """Of this host in its network, or another one of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.2"


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "nobody-here"


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return "gone"
