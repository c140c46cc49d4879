"""A server, and a box at it."""

from served import Served

from conftest import remove
from rewindbox import Rewindbox

ANSWER = "Do it:\n```python\nprint(6 * 7)\n```\n```bash\ntouch ruin; exit 3\n```\n```bash\nls\n```\n"


def serving(tmp_path_factory):
    """A fixture of a module: the server."""
    store = tmp_path_factory.mktemp("client") / "store"
    with Served(store) as made:
        yield made
    remove(store)


def at(server):
    """A fixture: the box."""
    with Rewindbox(server.url, token=server.token) as made:
        yield made


def joined(written) -> dict[str, bytes]:
    """Output as it came, of each stream; how it is cut is nobody's promise."""
    return {name: b"".join(data for stream, data in written if stream == name) for name in ("stdout", "stderr")}
