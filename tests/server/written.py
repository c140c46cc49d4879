"""A history that is written as executions write it, without vms."""

from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rewindbox.execution import Execution
from rewindbox.history import History
from rewindbox.registry import Registry
from rewindbox.store import Store

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def write(store: Path, outputs: Iterable[bytes], agent_id: str = "me") -> tuple[str, list[str]]:
    """An execution of `true` for each output, one a second; the id of their vm, and theirs."""
    with closing(Store(str(store / "history.db"))) as opened:
        with opened.transaction() as tx:
            vm_id = Registry(opened).create(tx, "box", vm_type="host", backend="namespace", agent_id=agent_id).id
        return vm_id, [_add(opened, vm_id, agent_id, number, output) for number, output in enumerate(outputs)]


def _add(store: Store, vm_id: str, agent_id: str, second: int, output: bytes) -> str:
    begun = {"agent_id": agent_id, "language": "bash", "code": "true", "started_at": T0 + timedelta(seconds=second)}
    with store.transaction() as tx:
        start = History(store).begin(tx, vm_id=vm_id, **begun)
        done = Execution(
            id=start.id, vm_id=vm_id, **begun, ended="exit", exit_code=0, stdout_bytes=output, stderr_bytes=b"",
            truncated=False, wall_s=0.5, cpu_s=0.25, memory_peak_bytes=1, error=None, before=None, after=None,
        )  # fmt: skip
        History(store).finish(tx, done, start)
    return start.id
