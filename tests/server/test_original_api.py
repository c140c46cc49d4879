"""The original's HTTP API over a real server, by the requests that its clients send."""

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from originals import ROUTES, asking, good, made_for_it, run, serving

from conftest import until
from rewindbox.models import (
    CommandHistoryEntry,
    HistoryQueryResponse,
    ParseExecuteResponse,
    VmExecuteResponse,
    VmInstance,
    VmPoolResponse,
)
from rewindbox.server import original

url = pytest.fixture(scope="module")(serving)
client = pytest.fixture(scope="module")(asking)
vm = pytest.fixture(made_for_it)

DOCUMENT = Path(__file__).parents[2] / "docs" / "original-api.md"


def test_the_rust_client_makes_a_vm_and_waits_for_it(client):
    """It is `running`, in lower case, at the first look; a name that is taken is no error."""
    assert client.get("/health").is_success
    made = [good(client.post("/api/vms", json={"vm_type": "focal", "vm_name": "agent-x y/vm"})) for _ in range(2)]
    assert [one["status"] for one in made] == ["running"] * 2
    assert made[0]["id"] != made[1]["id"]
    for one in made:
        VmInstance.model_validate(good(client.get(f"/api/vms/{one['id']}")))
        good(client.delete(f"/api/vms/{one['id']}"))
        assert client.get(f"/api/vms/{one['id']}").status_code == 404  # nobody goes on waiting for it


def test_the_rust_client_runs_code_and_goes_back(client, vm):
    """Every answer is what its types decode: run, fail, history, snapshot, back to what was before."""
    for language, code in (("python", "print(6 * 7)"), ("bash", "echo 42")):
        done = run(client, code, language, vm_id=vm)
        assert (VmExecuteResponse.model_validate(done).stdout, done["vm_id"]) == ("42\n", vm)
    run(client, "echo good > f", vm_id=vm)
    name = f"agent-a1-{int(time.time())}"
    kept = good(client.post(f"/api/vms/{vm}/snapshots", json={"name": name, "description": "x"}))
    again = good(client.post(f"/api/vms/{vm}/snapshots", json={"name": name, "description": "x"}))
    assert kept["snapshot_id"] != again["snapshot_id"]
    failed = run(client, "echo bad > f; exit 3", vm_id=vm)
    assert (failed["exit_code"], failed["success"]) == (3, False)
    answer = client.post(f"/api/vms/{vm}/rollback/{kept['snapshot_id']}")  # no body
    assert good(answer)["success"]
    assert run(client, "cat f", vm_id=vm)["stdout"] == "good\n"
    found = good(client.get(f"/api/vms/{vm}/history?limit=100&failures_only=false"))
    entries = [CommandHistoryEntry.model_validate(entry) for entry in found["history"]]
    assert [entry.success for entry in entries] == [True, False, True, True, True]
    assert HistoryQueryResponse.model_validate(found).total == 5
    failures = good(client.get(f"/api/vms/{vm}/history?limit=100&failures_only=true"))
    assert [entry["exit_code"] for entry in failures["entries"]] == [3]
    undone = [row for row in good(client.get(f"/api/vms/{vm}/snapshots"))["snapshots"] if row["kind"] == "pre_rollback"]
    good(client.post(f"/api/vms/{vm}/rollback/{undone[0]['id']}"))
    assert run(client, "cat f", vm_id=vm)["stdout"] == "bad\n"


def test_history_is_filtered_as_it_says(client, vm):
    """Dates, agent, offset and limit count; the newest come first; `total` is of all that match."""
    for agent in ("ann", "bob", "ann"):
        run(client, "true", vm_id=vm, agent_id=agent)
    place = f"/api/vms/{vm}/history"
    newest, middle, oldest = good(client.get(place))["entries"]
    ann = good(client.get(place, params={"agent_id": "ann", "limit": 1}))
    assert ([entry["id"] for entry in ann["entries"]], ann["total"]) == ([newest["id"]], 2)
    later = good(client.get(place, params={"start_date": middle["executed_at"]}))
    assert [entry["id"] for entry in later["entries"]] == [newest["id"], middle["id"]]
    first = good(client.get(place, params={"end_date": oldest["executed_at"]}))
    assert [entry["id"] for entry in first["entries"]] == [oldest["id"]]
    rest = good(client.get(place, params={"offset": 1, "limit": 1}))
    assert ([entry["id"] for entry in rest["entries"]], rest["total"]) == ([middle["id"]], 3)
    assert client.get(place, params={"start_date": "yesterday"}).status_code == 400


def test_an_agent_without_a_vm_has_its_own(client):
    """Without `vm_id` an agent's runs share one vm, and no other agent's; its pool says so."""
    first = run(client, "echo 1 > kept", agent_id="solo")
    second = run(client, "cat kept", agent_id="solo")
    assert (second["vm_id"], second["stdout"]) == (first["vm_id"], "1\n")
    assert run(client, "cat kept", agent_id="other")["exit_code"] == 1
    found = VmPoolResponse.model_validate(good(client.get("/api/llm/vm-pool/solo")))
    assert [one.id for one in found.available_vms] == [first["vm_id"]]
    assert found.pool_config.max_code_length == 10_000
    good(client.post("/api/llm/provision/solo"))


def test_parse_execute_runs_what_is_meant(client):
    """Blocks, results and errors, in order, in history; without `auto_execute` nothing runs."""
    text = "Please run this:\n```bash\necho 1 > a\n```\nRun it:\n```python\nprint(open('a').read())\n```"
    asked = {"agent_id": "parser", "llm_response": text, "auto_execute": True, "auto_execute_threshold": 0.0}
    answer = ParseExecuteResponse.model_validate(good(client.post("/api/llm/parse-execute", json=asked)))
    assert [result.stdout for result in answer.execution_results] == ["", "1\n\n"]
    vm_id = answer.execution_results[0].vm_id
    assert good(client.get(f"/api/vms/{vm_id}/history"))["total"] == 2
    quiet = good(client.post("/api/llm/parse-execute", json={**asked, "auto_execute": False, "vm_config": None}))
    assert (len(quiet["code_blocks"]), quiet["execution_results"]) == (2, [])
    wrong = client.post("/api/llm/parse-execute", json={"agent_id": "parser", "auto_execute": "yes"})
    assert (wrong.status_code, "llm_response" in wrong.json()["error"]) == (400, True)


def test_a_timeout_is_a_result(client, vm):
    """The output so far, exit code 124 and why; the vm goes on. Milliseconds count as well."""
    for time_given in ({"timeout_seconds": 1}, {"timeout_seconds": None, "timeout_ms": 700}):
        done = run(client, "echo begun; sleep 60", vm_id=vm, **time_given)
        assert (done["exit_code"], done["stdout"], done["ended"]) == (124, "begun\n", "timeout")
        assert done["error"]
    assert run(client, "echo on", vm_id=vm)["stdout"] == "on\n"


def test_a_direct_session(client):
    """The session adapter's cycle: three commands, a snapshot with its name, back to it, gone."""
    name = f"agent-a1-{int(time.time())}"
    asked = {"name": name, "vm_type": "ubuntu", "memory_mb": 2048, "vcpus": 2}
    made, again = (good(client.post("/sessions", json=asked)) for _ in range(2))
    assert (made["id"], made["name"]) == (again["id"], name)

    def execute(command):
        return good(client.post(f"/sessions/{name}/execute", json={"command": command}))

    assert execute("echo 'State 1' > f")["exit_code"] == 0
    assert (execute("echo hello")["exit_code"], execute("echo hello")["output"]) == (0, "hello\n")
    snapshot = good(client.post(f"/sessions/{name}/snapshots", json={"name": "test-snapshot"}))["snapshot_id"]
    assert "test-snapshot" in snapshot
    execute("echo 'State 2' > f")
    good(client.post(f"/sessions/{name}/rollback", json={"snapshot_id": snapshot}))
    assert execute("cat f")["output"] == "State 1\n"
    unknown = execute("no-such-command")
    assert unknown["exit_code"] != 0
    assert "not found" in unknown["output"]
    info = client.get(f"/sessions/{name}/info")
    assert made["id"] in info.text
    good(client.delete(f"/sessions/{name}"))
    assert client.delete(f"/sessions/{name}").status_code == 404
    assert client.post(f"/sessions/{name}/execute", json={"command": "true"}).json()["code"] == "session_not_found"


def test_sessions_at_once_are_apart(client):
    """Three at once, each with its own files; any name will do."""
    names = ["one", "two words & more", "vm_three"]

    def cycle(name):
        good(client.post("/sessions", json={"name": name, "vm_type": "ubuntu", "memory_mb": 2048, "vcpus": 2}))
        place = "/sessions/" + "".join(f"%{byte:02x}" for byte in name.encode())
        done = good(client.post(f"{place}/execute", json={"command": "ls; touch mine"}))
        good(client.delete(place))
        return done["output"]

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(cycle, names)) == ["", "", ""]


def test_the_javascript_client(client):
    """A snapshot before, a failure, back; and its way to the last success, which reads camelCase."""
    asked = {"agent_id": "workflow-agent", "language": "python", "code": "open('f', 'w').write('1')", "vm_id": None}
    asked |= {"requirements": [], "timeout_seconds": 30, "working_dir": None}
    asked["metadata"] = {"execution_id": "exec-1", "snapshot_id": None, "workflow_timestamp": "2026-01-01T00:00:00Z"}
    done = good(client.post("/api/llm/execute", json=asked))
    place = f"/api/vms/{done['vm_id']}"
    body = {"name": "pre-execution-1700000000000", "description": "before"}
    before = good(client.post(f"{place}/snapshots", json=body))["snapshot_id"]
    failing = {**asked, "vm_id": done["vm_id"], "code": "open('f', 'w').write('2'); 1 / 0"}
    assert good(client.post("/api/llm/execute", json=failing))["exit_code"] == 1
    assert good(client.post(f"{place}/rollback/{before}"))["message"]
    entries = good(client.get(f"{place}/history"))["history"]
    successes = [entry for entry in entries if entry["success"] and entry["snapshotId"]]
    last = max(successes, key=lambda entry: entry["timestamp"])
    good(client.post(f"{place}/rollback/{last['snapshotId']}"))
    read = {**asked, "vm_id": done["vm_id"], "code": "print(open('f').read())"}
    assert good(client.post("/api/llm/execute", json=read))["stdout"] == "1\n"


def test_the_runner(client):
    """Its shorter request; what goes wrong is JSON with `error`; a vm that is gone is 404 to delete."""
    vm = good(client.post("/api/vms", json={"vm_type": "focal-ci", "vm_name": "ci"}))["id"]
    asked = {"agent_id": "workflow-executor-1", "language": "bash", "code": "pwd", "vm_id": vm}
    asked |= {"timeout_seconds": 300, "working_dir": "/tmp"}
    assert good(client.post("/api/llm/execute", json=asked))["stdout"] == "/tmp\n"
    wrong = client.post("/api/llm/execute", json={**asked, "language": "klingon"})
    assert wrong.status_code == 400
    assert "klingon" in wrong.json()["error"]
    assert client.post("/api/llm/execute", json={**asked, "requirements": ["numpy"]}).json()["error"]
    good(client.delete(f"/api/vms/{vm}"))
    assert client.delete(f"/api/vms/{vm}").status_code == 404
    assert client.post("/api/vms", json={"vm_type": "windows"}).status_code == 400


def test_the_agents_client(client, vm):
    """Pool, allocation, metrics and tasks in its shapes, each number from the system."""
    held = good(client.post("/api/vm-pool/allocate", json={"vm_id": vm}))
    assert held == {"vm_id": vm, "ip_address": ""}
    pool = good(client.get("/api/vm-pool"))
    assert {"vm_id": vm, "ip_address": ""} in pool["vms"]
    stats = good(client.get("/api/vm-pool/stats"))
    assert stats["total_ips"] == 5 == stats["allocated_ips"] + stats["available_ips"]
    assert good(client.get("/api/llm/vm-pool/local"))["in_use_vms"][0]["id"] == vm
    asked = {"code": "data = b'1' * (1 << 20)", "language": "python", "agent_id": "tui-user", "vm_id": vm}
    good(client.post("/api/llm/execute", json={**asked, "timeout_ms": 30000}))
    found = good(client.get(f"/api/vms/{vm}/metrics"))
    assert found["memory_usage_mb"] >= 0
    assert 0 < found["uptime_seconds"] + 1 < 600
    assert vm in [entry["vm_id"] for entry in good(client.get("/api/vms/metrics"))]
    numbers = dict(
        line.split() for line in client.get("/metrics").text.splitlines() if line.startswith("rewindbox_pool")
    )
    assert numbers["rewindbox_pool_max"] == "5"
    assert int(numbers["rewindbox_pool_leased"]) >= 1
    tasks = good(client.get(f"/api/vms/{vm}/tasks"))
    assert ([task["status"] for task in tasks["tasks"]], tasks["total"]) == (["completed"], 1)
    listed = good(client.get("/api/vms"))
    assert (listed["total"], listed["usage"]["max_vms"]) == (len(listed["vms"]), 5)
    assert good(client.post(f"/api/vm-pool/release/{vm}"))["released"]
    assert not good(client.post(f"/api/vm-pool/release/{vm}"))["released"]


def test_the_agents_client_reads_its_types(client, vm):
    """It decodes whole numbers as such, and texts that are never null: of a vm that runs, or is stopped, or at work."""
    assert good(client.get(f"/api/vms/{vm}"))["ip_address"] == ""
    assert isinstance(good(client.get("/api/vm-pool/stats"))["utilization_percent"], int)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(run, client, "sleep 600", vm_id=vm)
        until(lambda: good(client.get(f"/api/vms/{vm}/tasks"))["tasks"], "it is at work")
        (task,) = good(client.get(f"/api/vms/{vm}/tasks"))["tasks"]
        assert (task["status"], datetime.fromisoformat(task["created_at"]).tzinfo) == ("running", UTC)
        good(client.post(f"/v1/executions/{task['id']}/cancel"))
        slow.exception()  # it is over, however that is told
    good(client.post(f"/v1/vms/{vm}/stop"))
    assert vm not in [entry["vm_id"] for entry in good(client.get("/api/vms/metrics"))]
    found = good(client.get(f"/api/vms/{vm}/metrics"))
    for name in ("memory_usage_mb", "uptime_seconds", "process_count"):
        assert isinstance(found[name], int), name
    assert isinstance(found["disk_usage_percent"], float)
    assert vm in [entry["vm_id"] for entry in good(client.get("/api/vms/metrics"))]


def test_no_time_is_the_configured_one(client, vm):
    """The JavaScript client makes 0 seconds of less than one: then the code has the time that is configured."""
    for given_time in ({"timeout_seconds": 0}, {"timeout_seconds": None, "timeout_ms": 0}):
        assert run(client, "sleep 0.2; echo on", vm_id=vm, **given_time)["stdout"] == "on\n"


def test_files_in_and_out(client, vm):
    """What is uploaded is downloaded, byte by byte."""
    data = bytes(range(256))
    good(client.post(f"/api/vms/{vm}/upload", params={"path": "a/b"}, content=data))
    assert client.get(f"/api/vms/{vm}/download", params={"path": "a/b"}).content == data
    assert client.get(f"/api/vms/{vm}/download", params={"path": "none"}).status_code == 404


def test_every_route_is_documented_and_tested():
    """docs/original-api.md and the walk above have each route that there is."""
    found = {route.path for routes in original.ROUTES for route in routes.routes}
    walked = {path for _, path in ROUTES}
    assert found - {"/ws", "/ws/{vm}"} == walked
    text = DOCUMENT.read_text()
    for path in found:
        assert path.replace("{path:path}", "...") in text, path


def test_the_documents_commands_work(url, tmp_path):
    """Each `curl` of docs/original-api.md is answered, in their order."""
    block = re.findall(r"```console\n(.*?)\n```", DOCUMENT.read_text(), re.S)[1]
    commands = re.sub(r"(?m)^\$ ", "", block).replace("localhost:8080", url.removeprefix("http://"))
    jq = "jq() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[2][1:]])' \"$@\"; }"
    script = f'set -e -o pipefail\ncurl() {{ command curl --fail-with-body "$@"; echo; }}\n{jq}\n{commands}'
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a,b\n1,2\n" in done.stdout
