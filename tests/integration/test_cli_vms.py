"""`rewindbox vms`, `cp`, `snapshot` and `rollback` as processes."""

import re
from pathlib import Path

import pytest
from commanded import Cli, fresh

cli = pytest.fixture(fresh)


def test_vms(cli: Cli) -> None:
    """create, list, show and rm; in a pipe create says the id."""
    made = cli.good("vms", "create", "box").strip()
    assert re.fullmatch(r"vm_\w+", made)
    assert cli.json("vms", "create")["id"].startswith("vm_")
    assert cli.json("vms", "list")["vms"][0]["name"] == "box"
    assert cli.good("vms", "list").splitlines()[0].split("\t")[:2] == [made, "box"]
    shown = cli.json("vms", "show", "box")
    assert (shown["id"], shown["executions"], shown["snapshots"]) == (made, 0, 0)
    assert cli.json("vms", "create", "box", code=2)["error"]["code"] == "validation_failed"
    assert cli.json("vms", "rm", "box")["removed"] is True
    assert cli.json("vms", "show", "box", code=2)["error"]["code"] == "unknown_vm"


def test_cp(cli: Cli, tmp_path: Path) -> None:
    """Files go in and out unchanged, through standard streams too; folders take the file's name."""
    data = bytes(range(256)) * 1000
    (tmp_path / "data.bin").write_bytes(data)
    cli.good("cp", str(tmp_path / "data.bin"), "default:in/")
    cli.good("cp", "default:in/data.bin", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == data
    assert cli("cp", "default:in/data.bin", "-").stdout == data
    cli.good("cp", "-", "default:x", text="hi")
    (tmp_path / "out").mkdir()
    value = cli.json("cp", "default:x", str(tmp_path / "out"))
    assert (value["bytes"], value["target"]) == (2, str(tmp_path / "out" / "x"))
    assert (tmp_path / "out" / "x").read_bytes() == b"hi"


def test_cp_keeps_what_can_be_run(cli: Cli, tmp_path: Path) -> None:
    """A program can be run in the vm as well."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho works\n")
    script.chmod(0o755)
    cli.good("cp", str(script), "default:")
    assert cli.good("exec", "bash", "./script") == "works\n"


def test_snapshots_and_rollback(cli: Cli) -> None:
    """A vm goes back to a snapshot by name, to before an execution, to its last success; and forth again."""
    cli.good("exec", "bash", "echo 1 > file")
    made = cli.json("snapshot", "create", "default", "--name", "first")
    assert made["snapshot_id"].startswith("snap_") and (made["name"], made["kind"]) == ("first", "manual")
    second = cli.json("exec", "bash", "echo 2 > file")
    cli("exec", "bash", "echo 3 > file; exit 1")
    assert cli.json("rollback", "default", "--last-success")["reason"] == "manual"
    assert cli.good("exec", "bash", "cat file") == "2\n"
    undone = cli.json("rollback", "default", "first")
    assert cli("cp", "default:file", "-").stdout == b"1\n"
    cli.good("rollback", "default", undone["snapshot_id"])
    assert cli("cp", "default:file", "-").stdout == b"2\n"
    cli.good("rollback", "default", "--before", second["id"][:11])
    assert cli("cp", "default:file", "-").stdout == b"1\n"
    names = [entry["name"] for entry in cli.json("snapshot", "list", "default")["snapshots"]]
    assert "first" in names
    cli.good("snapshot", "rm", "default", "first")
    assert len(cli.good("snapshot", "list", "default").splitlines()) == len(names) - 1
