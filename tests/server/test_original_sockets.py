"""The original's WebSockets over a real server, by the messages that its clients send."""

import json
from contextlib import contextmanager
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from originals import asking, good, made_for_it, run, serving
from websockets.sync.client import connect

from conftest import PATIENCE_S, scaled, until

url = pytest.fixture(scope="module")(serving)
client = pytest.fixture(scope="module")(asking)
vm = pytest.fixture(made_for_it)


@contextmanager
def talking(url, path):
    """A WebSocket: a function that sends, one that gives the next message."""
    with connect(f"ws{url.removeprefix('http')}{path}", open_timeout=PATIENCE_S) as socket:
        yield socket, lambda: json.loads(socket.recv(PATIENCE_S))


def say(socket, kind, **data):
    socket.send(json.dumps({"message_type": kind, "data": data}))


def test_a_vms_socket_delivers(url, client, vm):
    """Output as it comes, the end, history, a snapshot and a rollback, in the words of its documents."""
    with talking(url, f"/ws/{vm}") as (socket, heard):
        code = "echo one; echo two >&2"
        say(socket, "LlmExecuteCode", agent_id="a1", language="bash", code=code, execution_id="mine")
        told = [heard()]
        while told[-1]["message_type"] == "LlmExecutionOutput":
            told.append(heard())
        assert {entry["data"]["execution_id"] for entry in told} == {"mine"}
        content = {"stdout": "", "stderr": ""}
        for entry in told[:-1]:
            content[entry["data"]["stream"]] += entry["data"]["content"]
        assert content == {"stdout": "one\n", "stderr": "two\n"}
        assert (told[-1]["message_type"], told[-1]["data"]["exit_code"]) == ("LlmExecutionComplete", 0)
        say(socket, "CreateSnapshot", name="here", description="", agent_id="a1")
        kept = heard()
        assert kept["message_type"] == "SnapshotCreated"
        say(socket, "QueryHistory", agent_id="a1", limit=10, failures_only=False)
        assert [entry["command"] for entry in heard()["data"]["history"]] == [code]
        target = {"snapshot_id": kept["data"]["snapshot_id"], "agent_id": "a1", "create_pre_rollback_snapshot": True}
        say(socket, "RollbackToSnapshot", **target)
        assert heard()["data"]["pre_rollback_snapshot_id"]
        say(socket, "LlmExecuteCode", agent_id="a1", language="klingon", code="x", execution_id="bad")
        failed = heard()
        assert (failed["message_type"], failed["data"]["execution_id"]) == ("LlmExecutionError", "bad")
        text = "Run it:\n```bash\necho parsed\n```"
        asked = {"agent_id": "a1", "llm_response": text, "auto_execute": True, "auto_execute_threshold": 0.0}
        say(socket, "LlmParseExecute", **asked)
        result = heard()["data"]["execution_results"][0]
        assert (result["stdout"], result["vm_id"]) == ("parsed\n", vm)


def test_output_comes_while_code_runs_and_goes_on_without_us(url, client, vm):
    """A client hears of output before the end; one that goes away does not end the code."""
    with talking(url, f"/ws/{vm}") as (socket, heard):
        say(socket, "LlmExecuteCode", language="bash", code="echo begun; sleep 600")
        told = heard()["data"]
        assert told["content"].startswith("begun")
    run(client, "true", agent_id="meanwhile")
    (task,) = good(client.get(f"/api/vms/{vm}/tasks"))["tasks"]
    assert (task["id"], task["status"]) == (told["execution_id"], "running")
    good(client.post(f"/v1/executions/{task['id']}/cancel"))
    place = f"/api/vms/{vm}/history"
    until(lambda: good(client.get(place))["total"] == 1, "the execution is recorded")
    assert good(client.get(place))["entries"][0]["ended"] == "killed"


def test_the_guides_socket(url):
    """`execute_code`, a sign of life, and the reason why there are no workflows yet."""
    with talking(url, "/ws") as (socket, heard):
        begun = heard()
        assert begun["response_type"] == "connection_established"
        assert (begun["sessionId"], begun["data"]["capabilities"]) == (
            begun["data"]["session_id"],
            ["command_execution"],
        )
        assert datetime.fromisoformat(begun["data"]["server_time"])
        socket.send(json.dumps({"command_type": "get_session_info", "session_id": None, "data": {}}))
        info = heard()
        assert (info["response_type"], info["sessionId"]) == ("session_info", begun["sessionId"])
        assert info["data"]["subscribed_workflows"] == []
        asked = {"session_id": "s", "workflow_id": "w"}
        ask = {"language": "python", "code": "print(42)", "agent_id": "guide"}
        socket.send(json.dumps({"command_type": "execute_code", **asked, "data": ask}))
        told = [heard()]
        while told[-1]["response_type"] == "execution_output":
            told.append(heard())
        assert "".join(entry["data"]["stdout"] for entry in told[:-1]) == "42\n"
        assert (told[0]["session_id"], told[0]["workflowId"]) == ("s", "w")
        assert (told[-1]["response_type"], told[-1]["data"]["exit_code"]) == ("execution_complete", 0)
        socket.send(json.dumps({"command_type": "ping"}))
        assert heard()["response_type"] == "pong"
        socket.send(json.dumps({"command_type": "subscribe_workflow", "workflow_id": "w"}))
        failed = heard()
        assert (failed["success"], "agents" in failed["error"]) == (False, True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["LlmExecuteCode", "LlmParseExecute", "QueryHistory", "CreateSnapshot", "RollbackToSnapshot"])
FIELDS = st.sampled_from(["code", "language", "agent_id", "limit", "name", "snapshot_id", "llm_response", "timeout_ms"])
MESSAGES = st.one_of(
    st.binary(max_size=30),
    st.text(max_size=30),
    JSON.map(json.dumps),
    st.fixed_dictionaries({"message_type": KINDS | JSON, "data": JSON | st.dictionaries(FIELDS, JSON, max_size=4)}).map(
        json.dumps
    ),
)


def test_whatever_a_socket_is_told_it_answers(url, vm):
    """Each message has an answer or an error, and the connection goes on."""
    with talking(url, f"/ws/{vm}") as (socket, heard):

        @settings(max_examples=scaled(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(message=MESSAGES)
        def told(message):
            socket.send(message)
            answer = heard()
            while answer["message_type"] == "LlmExecutionOutput":
                answer = heard()
            assert answer["data"].get("code") != "internal", answer

        told()
        say(socket, "QueryHistory", limit=0)
        assert heard()["message_type"] == "HistoryResponse"
