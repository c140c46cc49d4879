"""A history database to open, and what is in it."""

from collections.abc import Iterator
from pathlib import Path

import rewindbox.store as store_module
from rewindbox.registry import Registry
from rewindbox.schema import FACTS
from rewindbox.store import Store

SOURCE = Path(store_module.__file__).parent


def place(tmp_path: Path) -> str:
    """A fixture: the path of a database that is not there yet."""
    return str(tmp_path / "history.db")


def fresh(path: str) -> Iterator[Store]:
    """A fixture: a store there."""
    opened = Store(path)
    yield opened
    opened.close()


def rows_of(store: Store) -> dict[str, int]:
    return {
        table: store.rows(f"select count(*) from {table}")[0][0] for table in ["log", *(fact.table for fact in FACTS)]
    }


def add_vm(store: Store, name: str) -> str:
    with store.transaction() as tx:
        return Registry(store).create(tx, name, vm_type="host", backend="namespace", agent_id="me").id
