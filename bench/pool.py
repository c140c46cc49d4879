"""What the pool is worth: the first execution of an agent in a new vm, and in a ready one. `python -m bench.pool`."""

import os
import statistics
import tempfile
import time
from dataclasses import replace

import anyio

from bench.memory import descendants, proportional_kib
from rewindbox import backends
from rewindbox.engine import AsyncRewindbox

ROUNDS = 30
REST_S = 0.1
"""What goes on after a vm was used is not measured with the next one."""


async def measure(language: str, session: str | None, *, pooled: bool) -> float:
    """The median of the time from asking for a vm to the result of its first execution, in milliseconds."""
    folder = tempfile.mkdtemp()
    took = []
    box = AsyncRewindbox(folder)
    box.settings = replace(box.settings, vm_pool_size=1, pool=replace(box.settings.pool, max=2, executions=1))
    async with box:
        for round_ in range(ROUNDS):
            if pooled:
                await box.pool.upkeep()
            await anyio.sleep(REST_S)
            start = time.perf_counter()
            vm = await box.pool.lease(f"agent{round_}") if pooled else await box.vm()
            await vm.execute(language, "true" if language == "bash" else "1", session=session)
            took.append(time.perf_counter() - start)
            await (box.pool.give_back(vm) if pooled else vm.stop())
    backends.delete(folder)
    return statistics.median(took) * 1000


async def memory_mib() -> float:
    """Proportional memory of all processes of a ready vm, its supervisor's as well."""
    folder = tempfile.mkdtemp()
    box = AsyncRewindbox(folder)
    box.settings = replace(box.settings, vm_pool_size=4)
    async with box:
        await box.vm()
        before = _everything_kib()
        await box.pool.upkeep()
        after = _everything_kib()
    backends.delete(folder)
    return (after - before) / 4 / 1024


def _everything_kib() -> int:
    """Of all that came from this process."""
    return sum(map(proportional_kib, (os.getpid(), *descendants(os.getpid()))))


async def main() -> None:
    """Print the table of docs/pool.md."""
    for text, language, session in (
        ("`bash`, a process of its own", "bash", None),
        ("`python`, a process of its own", "python", None),
        ("`python`, in a session", "python", "main"),
    ):
        without, with_ = [await measure(language, session, pooled=pooled) for pooled in (False, True)]
        print(f"| {text} | {without:.1f} ms | {with_:.1f} ms |")
    print(f"a ready vm takes {await memory_mib():.1f} MiB")


if __name__ == "__main__":
    anyio.run(main)
