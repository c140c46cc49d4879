"""Output as it comes, from any place on: nothing lost, nothing twice, whoever went away meanwhile."""

import json
import random
import socket
import threading
from itertools import takewhile

import pytest
from served import Served, events, follow, output_of
from websockets.sync.client import connect

from conftest import remove, scaled, until
from rewindbox.server import feeds
from rewindbox.server.feeds import Place

MIXED = """
import os, sys, time
for number in range(40):
    os.write(1, f"{number} \u00e4\U0001f600\\n".encode())
    os.write(2, b"e%d\\n" % number)
    time.sleep(0.01)
os.write(1, b"\\xff\\xc3")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("events") / "store"
    with Served(store) as made:
        yield made
    remove(store)


@pytest.fixture(scope="module")
def client(server):
    with server.client() as made:
        made.post("/v1/vms", json={"name": "vm"})
        yield made


def begin(client, code, language="bash", **more):
    """The URL of an execution that has begun."""
    asked = {"language": language, "code": code, "wait": False, **more}
    answer = client.post("/v1/vms/vm/executions", json=asked)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == answer.json()["url"]
    return answer.json()["url"]


def ended(client, url):
    """How it ended, when it has."""
    until(lambda: client.get(url).status_code == 200, "it has ended")
    return client.get(url).json()


def test_output_comes_while_it_is_written(client):
    """The first line is told before the code that waits for us has gone on."""
    url = begin(client, "echo one; until [ -e go ]; do sleep 0.01; done; echo two")
    found = []
    for event in follow(client, f"{url}/events"):
        found.append(event)
        if output_of(found) == "one\n" and len(found) == 2:
            assert client.get(url).status_code == 202
            name = client.get("/v1/executions").json()["executions"][0]["execution_id"]
            assert url.endswith(name)
            client.post(f"{url}/cancel")
    assert [event["event"] for event in found] == ["begun", "output", "ended"]
    assert (found[-1]["data"]["ended"], ended(client, url)["stdout"]) == ("killed", "one\n")


def test_who_comes_back_misses_nothing(client):
    """Cut off after any event, again and again, while it runs and afterwards: each byte once, in order."""
    url = begin(client, MIXED, "python")
    random.seed(7)
    found, last = [], None
    while not found or found[-1]["event"] != "ended":
        some = random.randrange(1, 9)
        for event in follow(client, f"{url}/events", last):
            found.append(event)
            last = event["id"]
            if not (some := some - 1):
                break
    whole = ended(client, url)
    assert output_of(found) == whole["stdout"] and output_of(found, "stderr") == whole["stderr"]
    assert [event["event"] for event in found].count("begun") == 1
    assert whole["stdout"].endswith("39 \u00e4\U0001f600\n\ufffd\ufffd")
    again = list(follow(client, f"{url}/events"))  # from the record
    assert output_of(again) == whole["stdout"] and again[-1] == found[-1]
    for event in again:
        rest = list(follow(client, f"{url}/events", event["id"])) if event["id"] != "end" else []
        assert rest == again[again.index(event) + 1 :]
    assert client.get(f"{url}/events", headers={"Last-Event-ID": "end"}).status_code == 204
    assert client.get(f"{url}/output/stdout").content.endswith(b"\n\xff\xc3")


def test_many_follow_one(client):
    """Several clients at once, one of which reads nothing for a while, get the same."""
    url = begin(client, "for i in $(seq 300); do echo $i $RANDOM; done", "bash")
    with client.stream("GET", f"{url}/events") as lazy:
        found: list[list] = [[] for _ in range(4)]
        threads = [
            threading.Thread(target=lambda into=into: into.extend(follow(client, f"{url}/events"))) for into in found
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found.append(list(events(lazy.iter_lines())))
    texts = {output_of(each) for each in found}
    assert texts == {ended(client, url)["stdout"]}


def test_who_goes_away_does_not_end_the_code(server, client):
    """A connection that ends leaves the code alone, unless it was asked to take it along."""
    code = "echo begun; sleep 100"

    def gone(**more):
        body = json.dumps({"language": "bash", "code": code, **more}).encode()
        head = "POST /v1/vms/vm/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {server.token}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + body)
            until(lambda: client.get("/v1/executions").json()["executions"], "it has begun")
            (entry,) = client.get("/v1/executions").json()["executions"]
        return f"/v1/executions/{entry['execution_id']}"

    taken = gone(cancel_on_disconnect=True)
    assert ended(client, taken)["ended"] == "killed"
    left = gone()
    found = follow(client, f"{left}/events")
    assert [next(found)["event"], next(found)["event"]] == ["begun", "output"]  # as long as it takes to see it gone
    assert client.get(left).status_code == 202
    client.post(f"{left}/cancel")
    assert ended(client, left)["stdout"] == "begun\n"


def test_a_run_goes_on_where_it_was(client):
    """Cut off after any event, a run's events go on; afterwards they come from its journal and the record."""
    text = "Run it:\n```bash\nfor i in 1 2 3; do echo $i; done\n```\n"
    text += "```python\nprint('x' * 3)\n```\n```bash\nexit 4\n```\n"
    with client.stream("POST", "/v1/runs", json={"text": text, "vm": "vm"}) as answer:
        url = answer.headers["Location"]
        first = list(takewhile(lambda event: event["event"] != "begun", events(answer.iter_lines())))
    assert [event["event"] for event in first] == ["run", "decision"]
    until(lambda: list(follow(client, url))[-1]["event"] == "done", "the run is over")
    whole = list(follow(client, url))
    assert whole[: len(first)] == first
    assert output_of(whole) == "1\n2\n3\nxxx\n"
    for number, event in enumerate(whole):
        rest = list(follow(client, url, event["id"]))
        assert [one["event"] for one in rest if one["event"] != "output"] == [
            one["event"] for one in whole[number + 1 :] if one["event"] != "output"
        ]
        assert output_of(whole[: number + 1]) + output_of(rest) == output_of(whole)


def test_a_websocket_does_the_same(server, client):
    """Begin, follow and cancel over one connection, several at once; what is wrong is answered, and it goes on."""
    url = server.url.replace("http", "ws") + "/v1/ws"
    with connect(url, additional_headers={"Authorization": f"Bearer {server.token}"}) as wire:

        def say(**message):
            wire.send(json.dumps(message))

        def hear():
            return json.loads(wire.recv(60))

        say(do="execute", ref="a", vm="vm", request={"language": "bash", "code": "echo one; sleep 100"})
        found = [hear(), hear()]
        assert [event["event"] for event in found] == ["begun", "output"]
        assert {event["ref"] for event in found} == {"a"}
        name = found[0]["execution_id"]
        say(do="follow", ref="b", execution_id=name, last_event_id="0-0")
        assert hear()["data"]["text"] == "one\n"
        for wrong in ("{", "[]", '{"do": "dance"}', '{"do": "follow", "execution_id": 1}'):
            wire.send(wrong)
            assert hear()["data"]["code"] == "invalid_argument"
        say(do="stdin", ref="c", execution_id=name, data="x")
        assert hear()["data"]["code"] == "input_closed"
        say(do="follow", ref="d", execution_id="ex_nothing")
        assert hear()["data"]["code"] == "unknown_execution"
        say(do="cancel", execution_id=name)
        last = [hear(), hear()]
        assert {(event["event"], event["ref"], event["data"]["ended"]) for event in last} == {
            ("ended", "a", "killed"),
            ("ended", "b", "killed"),
        }
    offered = f"rewindbox.bearer.{server.token}"
    with connect(url, subprotocols=[offered]) as wire:
        assert wire.subprotocol == offered
    assert client.get(f"/v1/executions/{name}").json()["stdout"] == "one\n"


def test_input_over_a_websocket(server):
    """What a client writes is read by the program that asked for it, text and bytes, until it is closed."""
    url = server.url.replace("http", "ws") + "/v1/ws"
    with connect(url, additional_headers={"Authorization": f"Bearer {server.token}"}) as wire:
        request = {"language": "bash", "code": "read x; echo got $x; od -An -tx1", "stdin_open": True}
        wire.send(json.dumps({"do": "execute", "vm": "vm", "request": request}))
        name = json.loads(wire.recv(60))["execution_id"]
        wire.send(json.dumps({"do": "stdin", "execution_id": name, "data": "it\n"}))
        assert json.loads(wire.recv(60))["data"]["text"] == "got it\n"
        for wrong in ({"data": "\ud800"}, {"data_base64": "_"}):
            wire.send(json.dumps({"do": "stdin", "execution_id": name, **wrong}))
            assert json.loads(wire.recv(60))["data"]["code"] == "invalid_argument"
        wire.send(json.dumps({"do": "stdin", "execution_id": name, "data_base64": "/v8=", "close": True}))
        assert json.loads(wire.recv(60))["data"]["text"].split() == ["fe", "ff"]
        assert json.loads(wire.recv(60))["data"]["exit_code"] == 0


def test_text_is_cut_between_characters():
    """However bytes come in, and wherever one begins: the texts together are what the bytes are."""
    random.seed(1)
    pieces = ["a", "\u00e4", "\u20ac", "\U0001f600", "\n"]
    for _ in range(scaled(300)):
        raw = "".join(random.choices(pieces, k=random.randrange(30))).encode()
        if random.random() < 0.3:
            raw += bytes(random.choices(range(256), k=random.randrange(6)))
        place, texts, come = Place(), "", 0
        while come < len(raw) or not come:
            come = min(len(raw), come + random.randrange(1, 5))
            for event in feeds.output({"stdout": raw[:come], "stderr": b""}, place, final=come == len(raw)):
                texts += event.data["text"]
                place = Place.parse(event.id)
            if not raw:
                break
        assert texts.replace("\ufffd", "") == raw.decode("utf-8", "ignore")
        assert place.stdout == len(raw)
