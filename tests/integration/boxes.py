"""What tests of a box share: one whose history is configured, an answer, and what is left of both."""

from pathlib import Path

from rewindbox.engine import AsyncRewindbox
from rewindbox.models import HistoryConfig, VmExecutionConfig


def opened(store, **history):
    """A box whose history is configured."""
    return AsyncRewindbox(store, config=VmExecutionConfig(history=HistoryConfig(**history)))


async def files(vm) -> dict[str, str]:
    """What is in the vm's home."""
    return {entry.name: (await vm.read(entry.name)).decode() for entry in await vm.list() if entry.kind == "file"}


def everything_on_disk(store: Path) -> bytes:
    """The database, its log of writes included."""
    return b"".join(path.read_bytes() for path in sorted(store.glob("history.db*")))


ANSWER = """
```python
print("one")
```
```bash
echo 2 > f; exit 2
```
```text
not run
```
```bash
echo three; ls
```
"""


async def collected(box, text, **options):
    return [execution async for execution in box.run(text, **options)]
