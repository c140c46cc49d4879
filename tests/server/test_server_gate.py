"""What is slow, huge, cut off, malformed, silent or from a page that has no business here."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import httpx
import pytest
from served import Served, inside
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.sync.client import connect
from websockets.uri import parse_uri

from conftest import PATIENCE_S, remove, until
from rewindbox.server import app, counted, original
from rewindbox.server.bounds import Bounds
from rewindbox.server.serve import bound
from rewindbox.server.tokens import Tokens

SMALL = Bounds(
    body_bytes=2000, file_bytes=5000, headers_s=0.3, body_s=0.5, told_s=0.5, alive_s=0.1, requests=4, executions=2
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The address of a server with small bounds, and a token for it."""
    store = tmp_path_factory.mktemp("gate") / "store"
    token = Tokens(str(store)).create("test")
    with inside(store, SMALL, hosts=["box.example"], origins=["https://page.example"]) as url:
        yield url, token
    remove(store)


@pytest.fixture
def client(place):
    url, token = place
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S) as made:
        made.post("/v1/vms", json={"name": "vm"})
        yield made


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A client of a server that takes bodies as long as usual."""
    store = tmp_path_factory.mktemp("many") / "store"
    headers = {"Authorization": f"Bearer {Tokens(str(store)).create('test')}"}
    with inside(store, Bounds()) as url, httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S) as made:
        yield made
    remove(store)


def said(url: str, raw: bytes, *, then_close: bool = False) -> bytes:
    """What comes back for bytes as they are, until the server closes the connection."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=PATIENCE_S) as connection:
        connection.sendall(raw)
        if then_close:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                found += part
    return found


def test_who_calls_by_a_strange_name_is_refused(client):
    """A name that was made to lead here (DNS rebinding) is refused before the token is looked at."""
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1"):
        answer = client.get("/health", headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "refused"), host
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080", "192.168.1.5:8080", "box.example"):
        assert client.get("/health", headers={"Host": host}).status_code == 200, host


def test_pages_of_others_may_not_ask(client):
    """A page may ask if we served it, or if it is listed: then its browser may read the answer."""
    for origin in ("https://evil.example", "null", "http://localhost:1", "https://page.example.evil.example"):
        answer = client.get("/v1/vms", headers={"Origin": origin})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers, origin
    own = str(client.base_url).rstrip("/")
    assert client.get("/v1/vms", headers={"Origin": own}).status_code == 200
    answer = client.get("/v1/vms", headers={"Origin": "https://page.example"})
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    del client.headers["Authorization"]
    assert client.options("/v1/vms", headers=asked).status_code == 200
    assert client.options("/v1/vms", headers={**asked, "Origin": "https://evil.example"}).status_code == 400


def test_what_pages_of_others_ask_without_an_origin_is_refused(client, place):
    """An image, a link or a fetch that reads nothing is known by what the browser says of it, whatever it asks for."""
    for site in ("cross-site", "same-site"):
        for method, path in (("GET", "/v1/history"), ("HEAD", "/v1/vms"), ("GET", "/health"), ("POST", "/v1/verify")):
            answer = client.request(method, path, headers={"Sec-Fetch-Site": site})
            assert answer.status_code == 403, (site, path)
        head = (
            f"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {place[1]}\r\nSec-Fetch-Site: {site}\r\n"
        )
        upgrade = "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        assert said(place[0], (head + upgrade + key).encode()).startswith(b"HTTP/1.1 403 ")
    for site in ("none", "same-origin"):
        assert client.get("/v1/vms", headers={"Sec-Fetch-Site": site}).status_code == 200, site
    listed = {"Origin": "https://page.example", "Sec-Fetch-Site": "cross-site"}
    assert client.get("/v1/vms", headers=listed).status_code == 200


def test_too_large_is_refused_before_it_is_read(client, place):
    """A body that is too large is 413, told by its length or not; one that fits goes through."""
    big = {"name": "x" * 3000}
    assert client.post("/v1/vms", json=big).json()["code"] == "too_large"
    pieces = (b"x" * 500 for _ in range(100))
    answer = client.post("/v1/vms", content=pieces, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    file = "/v1/vms/vm/file?path=f"
    assert client.put(file, content=b"x" * 5000).json()["bytes"] == 5000
    assert client.put(file, content=b"x" * 5001).status_code == 413
    assert client.get(file).content == b"x" * 5000
    head = f"GET /health HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 2_000_000}\r\n\r\n"
    found = said(place[0], head.encode())  # an answer may be lost while we still write
    assert not found or b" 400 " in found.split(b"\r\n")[0]


MANY = 5001
"""Values in an object, of each of which an error would be made."""


@pytest.mark.parametrize("path", ["/v1/vms", "/v1/vms/vm/executions", "/api/llm/execute", "/api/llm/parse-execute"])
def test_json_of_too_many_values_is_refused_before_it_is_read(many, path):
    """Whatever its encoding, nothing is made of it; what looks so in a text is a text."""
    body = json.dumps({str(number): 1 for number in range(MANY)})
    for content in (
        body.encode(),
        body.encode("utf-16"),
        b'["\\\\", ' + b"[], " * MANY * 2 + b"1]",
        b"[1" + b",1" * 10_000,
    ):
        answer = many.post(path, content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large"), content[:40]
    assert many.post("/v1/plan", json={"text": '",[{\\' * MANY * 3}).status_code == 200


def test_every_route_that_takes_json_counts_it():
    """None is forgotten: a body is read by a route that counts."""
    routes = [route for group in (*app.ROUTES, *original.ROUTES) for route in group.routes]
    taking = [route for route in routes if getattr(route, "body_field", None) is not None]
    assert len(taking) > 15 and [route.path for route in taking if not isinstance(route, counted.Route)] == []


@pytest.mark.parametrize("path", ["/v1/ws", "/ws/vm"])
def test_a_message_of_too_many_values_is_refused(place, path):
    """So is one of a WebSocket, and the connection goes on."""
    url, token = place
    headers = {"Authorization": f"Bearer {token}"}
    with connect(f"ws{url.removeprefix('http')}{path}", additional_headers=headers) as talk:
        for _ in range(2):
            talk.send(json.dumps({str(number): 1 for number in range(MANY)}))
            assert json.loads(talk.recv(PATIENCE_S))["data"]["code"] == "too_large"


def test_who_says_nothing_is_let_go(place):
    """Silent connections, half a head and half a body end in time, and others are answered meanwhile."""
    url, token = place
    head = f"POST /v1/vms HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 10\r\n"
    whole = f"{head}Content-Type: application/json\r\n\r\n".encode()
    assert said(url, b"") == b"" and said(url, head.encode()) == b""
    assert said(url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET").count(b"HTTP/1.1 200") == 1
    slow = said(url, whole + b'{"na')
    assert b"408" in slow.split(b"\r\n")[0] and b"too_slow" in slow
    assert said(url, whole + b'{"na', then_close=True) == b""
    crowd = [socket.create_connection((httpx.URL(url).host, httpx.URL(url).port)) for _ in range(50)]
    assert httpx.get(f"{url}/health").status_code == 200
    for connection in crowd:
        connection.settimeout(PATIENCE_S)
        assert connection.recv(1) == b""
        connection.close()


def test_what_is_no_http_is_answered(place):
    """Malformed requests are 400 or closed; the server goes on."""
    url, token = place
    auth = f"Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    for raw in (
        *(b"\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\xff" * 1000),
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        f"POST /v1/vms HTTP/1.1\r\n{auth}Content-Length: -1\r\n\r\n".encode(),
        f"POST /v1/vms HTTP/1.1\r\n{auth}Content-Length: 5\r\nContent-Length: 6\r\n\r\n".encode(),
        f"POST /v1/vms HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
    ):
        found = said(url, raw)
        assert not found or re.match(rb"HTTP/1\.1 4\d\d ", found), (raw, found)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
        bodies = (
            "",
            "{",
            "[]",
            "null",
            '"x"',
            "{" * 900,
            "[" * 1900,
            '{"name": "\\ud800"}',
            '{"name": 1e999}',
            "\u00e4",
        )
        for body in (*(text.encode() for text in bodies), b"\xff\xfe", b'{"name": "\x00"}'):
            answer = client.post("/v1/vms", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400 and answer.json()["code"] in ("invalid_argument", "bad_request"), body
        assert client.post("/v1/vms", content=b'{"name": "x"}').status_code == 400  # no JSON, as a form of a page is
        for path in ("/v1/vms/%00", "/v1/vms/%ff", "/v1/vms/..%2f..%2fetc", "/v1/vms/" + "x" * 5000):
            assert client.get(path).status_code == 404, path
        for path in ("..%2f..%2f..%2fetc%2fpasswd", "run_" + "a" * 26, "%00", "."):
            assert client.get(f"/v1/runs/{path}/events").status_code == 404, path


def test_one_token_has_only_so_much(client):
    """Beyond its executions and requests a token gets 429; when they have ended it may go on."""
    asked = {"language": "bash", "code": "sleep 100", "wait": False}
    urls = [client.post("/v1/vms/vm/executions", json=asked).json()["url"]]
    waiting = threading.Thread(target=lambda: client.post("/v1/vms/vm/executions", json={**asked, "code": "true"}))
    waiting.start()
    until(lambda: "rewindbox_executions_running 2" in client.get("/metrics").text, "one runs and one waits")
    refused = client.post("/v1/vms/vm/executions", json=asked)
    assert (refused.status_code, refused.json()["code"], refused.headers["Retry-After"]) == (429, "too_many", "1")
    streams = [client.stream("GET", f"{urls[0]}/events") for _ in range(3)]
    opened = [stream.__enter__() for stream in streams]
    assert [stream.status_code for stream in opened] == [200, 200, 200]
    assert client.get("/v1/vms").json()["code"] == "too_many"
    for stream in streams:
        stream.__exit__(None, None, None)
    until(lambda: client.get("/v1/vms").status_code == 200, "it may go on")
    client.post(f"{urls[0]}/cancel")
    waiting.join()
    assert client.post("/v1/vms/vm/executions", json={"language": "bash", "code": "true"}).status_code == 200


def test_who_reads_nothing_is_let_go(client, place):
    """A stream whose client takes nothing is ended; the execution goes on, and its output is there afterwards."""
    url, token = place
    asked = {"language": "bash", "code": "head -c 8000000 /dev/zero | tr '\\0' x; echo end", "wait": False}
    where = client.post("/v1/vms/vm/executions", json=asked).json()["url"]
    address = httpx.URL(url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.host, address.port))
        connection.sendall(
            f"GET {where}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        until(lambda: client.get(where).status_code == 200, "it has ended")
        begun = time.monotonic()
        label = 'route="/v1/executions/{execution}/events"'
        until(lambda: re.search(rf"{re.escape(label)},status=\"200\"\}} [1-9]", client.get("/metrics").text), "let go")
        assert time.monotonic() - begun < PATIENCE_S / 2
    assert client.get(f"{where}/output/stdout").content == b"x" * 8_000_000 + b"end\n"


def test_a_websocket_that_takes_nothing_is_let_go(client, place):
    """So is a WebSocket; what it began goes on."""
    url, token = place
    code = "head -c 8000000 /dev/zero | tr '\\0' y | tee /dev/stderr; echo end"
    asked = {"do": "execute", "vm": "vm", "request": {"language": "bash", "code": code}}
    talk = ClientProtocol(parse_uri(f"ws{url.removeprefix('http')}/v1/ws"))
    upgrade = talk.connect()
    upgrade.headers["Authorization"] = f"Bearer {token}"
    talk.send_request(upgrade)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((httpx.URL(url).host, httpx.URL(url).port))
        connection.sendall(b"".join(talk.data_to_send()))
        while talk.state is not State.OPEN:
            talk.receive_data(connection.recv(4096))
        talk.send_text(json.dumps(asked).encode())
        connection.sendall(b"".join(talk.data_to_send()))
        until(lambda: re.search(r'route="/v1/ws",status="101"\} 1', client.get("/metrics").text), "let go")
    until(lambda: client.get("/v1/executions").json() == {"executions": []}, "it has ended")
    entry = client.get("/v1/history", params={"vm": "vm", "limit": 1}).json()["entries"][0]
    assert (entry["stdout"], entry["success"]) == ("y" * 8_000_000 + "end\n", True)


def test_a_quiet_stream_shows_that_it_lives(client):
    """While nothing happens comments come, so that both sides know of each other."""
    url = client.post("/v1/vms/vm/executions", json={"language": "bash", "code": "sleep 100", "wait": False}).json()[
        "url"
    ]
    with client.stream("GET", f"{url}/events") as answer:
        lines = answer.iter_lines()
        assert sum(1 for line in lines if line == ": alive" and not client.post(f"{url}/cancel").is_error) >= 1


def test_small_answers_are_sent_at_once():
    """The socket is named as TCP: otherwise asyncio leaves TCP_NODELAY out, and each answer waits 40 ms for an ACK."""
    with bound("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_without_tokens_only_at_home(tmp_path):
    """--no-auth is said loudly, and refused on an address that others can reach."""
    with Served(tmp_path / "store", "--no-auth") as server:
        assert server.token is None
        assert httpx.get(f"{server.url}/v1/vms").status_code == 200
        assert httpx.get(f"{server.url}/v1/vms", headers={"Host": "evil.example"}).status_code == 403
        until(lambda: "WARNING" in server.log.read_text(), "it is said loudly")
    remove(tmp_path / "store")


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "starlette"])
def test_without_the_extra_it_says_so(tmp_path, name):
    """Where the extra is not installed, `serve` says what to install, and has made nothing."""
    code = f"import sys; sys.modules[{name!r}] = None; from rewindbox import cli; sys.exit(cli.run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--store", str(tmp_path / "store"), "serve"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "pip install 'rewindbox[server]'" in done.stderr and name in done.stderr
    assert not (tmp_path / "store").exists()


def test_the_words_of_the_command_line(tmp_path, capfd):
    """Tokens are made, listed and revoked; what cannot be served is said before anything is."""
    from rewindbox import cli

    def call(*words: str) -> tuple[int, str]:
        code = cli.run(["--store", str(tmp_path), *words])
        return code, capfd.readouterr().out

    code, secret = call("token", "create", "one", "--agent", "me")
    assert code == 0 and re.fullmatch(r"rbx_[\w-]{43}\n", secret)
    assert call("token", "create", "one")[0] == 2
    found = json.loads(call("--json", "token", "list")[1])["tokens"]
    assert [(token["name"], token["agent"]) for token in found] == [("one", "me")] and "sha256" not in found[0]
    assert call("token", "revoke", "one") == (0, "one\n") and call("token", "revoke", "one")[0] == 2
    assert call("serve", "--no-auth", "--host", "0.0.0.0")[0] == 2
    assert call("serve", "--host", "nowhere.example")[0] == 2
    (tmp_path / "file").write_text("")
    assert cli.run(["--store", str(tmp_path / "file"), "serve", "--no-auth", "--port", "0"]) == 4
    (tmp_path / "tokens.json").write_text("{")
    assert call("token", "list")[0] == 2 and call("serve", "--port", "0")[0] == 2
    (tmp_path / "tokens.json").unlink()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert call("serve", "--port", str(taken.getsockname()[1]))[0] == 2


def test_a_start_that_fails_makes_no_token(tmp_path):
    """A token is made by the first start that can be asked: one that nobody was told would be lost."""
    store = tmp_path / "store"
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        failed = subprocess.run(
            [sys.executable, "-m", "rewindbox", "--store", store, "serve", "--port", str(taken.getsockname()[1])],
            capture_output=True,
            text=True,
            check=False,
        )
    assert failed.returncode == 2 and "choose another --port" in failed.stderr
    assert Tokens(str(store)).all() == []
    with Served(store) as server, server.client() as client:
        assert client.get("/v1/vms").status_code == 200
    with Served(store) as again:
        assert again.token is None
    remove(store)
