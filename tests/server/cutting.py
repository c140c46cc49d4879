"""What stands between a client and a server, and is no good: it cuts, or answers what no server of ours does."""

import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress


class Cutting:
    """Passes on what comes, and cuts a connection after some bytes of its answer, perhaps before the first."""

    def __init__(self, port: int, seed: int, rooms: Sequence[int] = ()) -> None:
        """`port`: the server's, on this host. Nothing is cut before `is_cutting` is set; `rooms`: after so many bytes,
        of the first connections, instead of random ones."""
        self._rooms = list(rooms)
        self._target, self._random = port, random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.is_cutting = False
        self.cuts = self._in_a_row = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client, self._room()), daemon=True).start()

    def _room(self) -> int | None:
        """So many bytes of the answer pass; None: all. Two in a row are cut at most: each wait is longer."""
        if not self.is_cutting or self._in_a_row == 2:
            self._in_a_row = 0
            return None
        self._in_a_row += 1
        self.cuts += 1
        if self._rooms:
            return self._rooms.pop(0)
        return self._random.choice((0, self._random.randrange(400), self._random.randrange(30_000)))

    def _serve(self, client: socket.socket, room: int | None) -> None:
        with closing(client), closing(socket.create_connection(("127.0.0.1", self._target))) as server:
            threading.Thread(target=self._asked, args=(client, server), daemon=True).start()
            with suppress(OSError):
                while data := server.recv(4096):
                    if room is not None:
                        data, room = data[:room], room - len(data)
                    client.sendall(data)
                    if room is not None and room <= 0:
                        break
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _asked(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(4096):
                server.sendall(data)


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that says the same to everybody; None: nothing at all. Its URL."""
    held: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                held.append(client)
                client.recv(4096)
                if answer is not None:
                    client.sendall(answer)
                    client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    for client in held:
        client.close()
