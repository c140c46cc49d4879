"""A history that is written as executions write it, without vms."""

from collections.abc import Iterable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from rewindbox.registry import Registry
from rewindbox.store import Store
from unit.histories import T0, begin, ended, finish


def write(store: Path, outputs: Iterable[bytes], agent_id: str = "me") -> tuple[str, list[str]]:
    """An execution of `true` for each output, one a second; the id of their vm, and theirs."""
    with closing(Store(str(store / "history.db"))) as opened:
        with opened.transaction() as tx:
            vm_id = Registry(opened).create(tx, "box", vm_type="host", backend="namespace", agent_id=agent_id).id
        return vm_id, [_add(opened, vm_id, agent_id, number, output) for number, output in enumerate(outputs)]


def _add(store: Store, vm_id: str, agent_id: str, second: int, output: bytes) -> str:
    told = {"agent_id": agent_id, "language": "bash", "code": "true", "started_at": T0 + timedelta(seconds=second)}
    return finish(store, ended(begin(store, vm_id, **told), stdout_bytes=output)).id
