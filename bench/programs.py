"""`python -m bench.programs`: programs behave inside a vm exactly as outside, on the same host.

Every program of the sets (see `bench.suites`) runs twice: as an ordinary process in a clean folder, with the variables
and the wall clock of a vm, and in a new vm of its own. Compared are how it ended, its exit code, what it wrote
to stdout, and whether its tests passed. A program that writes something else each time outside (some roll dice) is
named, and its output does not count. Exit code 0: no difference. 1: there is one, and it is named. 2: it could
not be asked that way.
"""

import argparse
import dataclasses
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from bench import host, report, suites
from bench.suites import Program
from rewindbox import AsyncRewindbox, Limits
from rewindbox.execution import EXIT_TIMEOUT

WALL_S = 900.0
LIMITS = Limits(wall_s=WALL_S, memory_mib=2048)
AT_ONCE = 2
VARIABLES = {"NODE_OPTIONS": "--max-old-space-size=512"}
"""On both sides: a program without end stops at its own limit, not at that of the vm, which the outside has not."""
NOBODY = 65534
"""Who runs the outer half when we are root: inside, nobody is root either."""
COLUMNS = ("set", "language", "variant", "programs", "passed outside", "passed inside", "differences")
_COMMANDS = {"python": ("python3", "program.py"), "javascript": ("node", "program.js"), "bash": ("bash", "program.sh")}
_CLOCK = re.compile(rb"finished in \d+\.\d+s")
"""The one thing that rust's test runner says of the machine rather than of the program."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is compared."""

    ended: str
    exit_code: int
    stdout: bytes = field(repr=False)
    passed: bool


@dataclass(slots=True)
class Tally:
    """What happened, by set, language and variant."""

    counts: dict[tuple[str, str, str], dict[str, int]] = field(default_factory=dict)
    differences: list[dict[str, Any]] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    """How many programs of a group could not run, by what they need."""
    varying: list[str] = field(default_factory=list)
    """Programs whose output is not the same twice outside."""
    done: int = 0


def main(words: list[str] | None = None) -> int:
    """Run the sample twice, print the table and every difference, write JSON."""
    given = _parser().parse_args(words)
    everything = suites.programs(os.environ.get("REWINDBOX_TEST_DATA"))
    if everything is None:
        print(
            f"programs are needed: set REWINDBOX_TEST_DATA to the folder that has {suites.EXERCISM} and "
            f"{suites.HUMANEVALPACK.format('python')}",
            file=sys.stderr,
        )
        return 2
    wanted = [program for program in everything if not given.only or given.only in program.group]
    chosen = sample(wanted, given.one_in, given.seed)
    header = {**host.header(), "sample": f"{len(chosen)} of {len(everything)} programs, seed {given.seed}"}
    started = time.perf_counter()
    tally = anyio.run(run, chosen)
    found = {"header": header, "wall_s": round(time.perf_counter() - started, 1), **_figures(tally)}
    _show(found)
    return report.finish(found, given.json)


def sample(everything: Sequence[Program], one_in: int, seed: int) -> list[Program]:
    """One of so many programs of each set, language and variant, but one at least."""
    groups: dict[tuple[str, str, str], list[Program]] = {}
    for program in everything:
        groups.setdefault(program.group, []).append(program)
    draw = random.Random(seed)
    return [program for group in groups.values() for program in draw.sample(group, max(1, len(group) // one_in))]


async def run(chosen: Sequence[Program]) -> Tally:
    """Run these programs, two at a time, each outside and then inside."""
    tally, limiter = Tally(), anyio.CapacityLimiter(AT_ONCE)
    with tempfile.TemporaryDirectory(prefix="rewindbox-programs-") as folder:
        async with AsyncRewindbox(os.path.join(folder, "store"), limits=LIMITS) as box:
            variables = await _variables(box)
            async with anyio.create_task_group() as group:
                for number, program in enumerate(_runnable(chosen, variables["PATH"], tally)):
                    await limiter.acquire_on_behalf_of(number)
                    done = functools.partial(limiter.release_on_behalf_of, number)
                    group.start_soon(_run_twice, box, program, variables, tally, done)
                    report.progress(tally.done, len(chosen), "programs")
        report.progress(tally.done, len(chosen), "programs")
    return tally


async def _variables(box: AsyncRewindbox) -> dict[str, str]:
    """The environment that programs have in a vm, asked of one."""
    vm = await box.vm()
    told = await vm.execute("bash", "env -0", environment=VARIABLES)
    await vm.remove()
    pairs = (pair.partition("=") for pair in told.stdout.split("\0") if pair)
    return {name: value for name, _, value in pairs if name not in ("_", "SHLVL", "PWD", "OLDPWD")}


def _runnable(chosen: Sequence[Program], path: str, tally: Tally) -> list[Program]:
    """Those whose programs the host has where a vm finds them; the others are counted by what they need."""
    found = []
    for program in chosen:
        absent = [word for word in program.needs if shutil.which(word, path=path) is None]
        if absent:
            tally.missing[f"{' '.join(program.group)}: {' and '.join(absent)} not on the path of a vm"] += 1
        else:
            found.append(program)
    return found


async def _run_twice(
    box: AsyncRewindbox, program: Program, variables: Mapping[str, str], tally: Tally, done: Callable[[], None]
) -> None:
    try:
        outer = await anyio.to_thread.run_sync(_outside, program, variables)
        inner = await _inside(box, program)
        if outer != inner:
            again = await anyio.to_thread.run_sync(_outside, program, variables)
            if again.stdout != outer.stdout:
                tally.varying.append(_name(program))
                outer, inner = (dataclasses.replace(verdict, stdout=b"") for verdict in (outer, inner))
    finally:
        done()
    _note(tally, program, outer, inner)


async def _inside(box: AsyncRewindbox, program: Program) -> Verdict:
    vm = await box.vm()
    try:
        for name, text in program.files.items():
            await vm.write(name, text)
        limits = dataclasses.replace(LIMITS, cpu_s=program.cpu_s)
        ex = await vm.execute(program.runs_as, program.code, limits=limits, environment=VARIABLES)
    finally:
        await vm.remove()
    return _verdict(program, ex.ended, ex.exit_code, ex.stdout_bytes, ex.stderr_bytes)


def _outside(program: Program, variables: Mapping[str, str]) -> Verdict:
    command = _COMMANDS[program.runs_as]
    with tempfile.TemporaryDirectory(prefix="rewindbox-outside-") as folder:
        for name, text in {**program.files, command[1]: program.code}.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        places = {"HOME": folder, "PYTHONPATH": folder, "TMPDIR": folder}
        return _verdict(program, *_run_bare(command, folder, {**variables, **places}, program.cpu_s))


def _run_bare(
    command: Sequence[str], folder: str, variables: Mapping[str, str], cpu_s: float
) -> tuple[str, int, bytes, bytes]:
    """How it ended, exit code, stdout, stderr; whatever it started is ended with it."""
    who: dict[str, Any] = {}
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    (out_reader, out_writer), (err_reader, err_writer) = os.pipe(), os.pipe()
    for writer in (out_writer, err_writer):
        os.fchmod(writer, 0o666)  # who runs there is somebody else, and opens /dev/stdout
    guards = ["setpriv", "--pdeathsig=KILL", "prlimit", f"--cpu={cpu_s:.0f}", "--"]  # it does not outlive us
    with subprocess.Popen(
        ["env", "--default-signal", *guards, *command],  # a shell that starts us in the background has Ctrl-C ignored
        cwd=folder,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=out_writer,
        stderr=err_writer,
        start_new_session=True,
        **who,
    ) as process:
        os.close(out_writer)
        os.close(err_writer)
        process.stdout, process.stderr = os.fdopen(out_reader, "rb"), os.fdopen(err_reader, "rb")  # it closes them
        is_late = False
        try:
            out, err = process.communicate(timeout=WALL_S)
        except subprocess.TimeoutExpired:
            is_late = True
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
    if is_late or process.returncode in (-signal.SIGKILL, -signal.SIGXCPU):  # by us, or by the limit
        return "timeout", EXIT_TIMEOUT, out, err
    if process.returncode < 0:
        return "signal", 128 - process.returncode, out, err
    return "exit", process.returncode, out, err


def _verdict(program: Program, ended: str, exit_code: int, out: bytes, err: bytes) -> Verdict:
    told = bool(program.told_by) and program.told_by.encode() in err
    whole = b"" if ended == "timeout" else _CLOCK.sub(b"finished", out)  # how far it came is not the program's doing
    return Verdict(ended=ended, exit_code=exit_code, stdout=whole, passed=exit_code == 0 and not told)


def _note(tally: Tally, program: Program, outer: Verdict, inner: Verdict) -> None:
    count = tally.counts.setdefault(
        program.group, {"programs": 0, "passed outside": 0, "passed inside": 0, "differences": 0}
    )
    tally.done += 1
    count["programs"] += 1
    count["passed outside"] += outer.passed
    count["passed inside"] += inner.passed
    count["differences"] += outer != inner
    if outer != inner:
        tally.differences.append({"program": _name(program), **_told(outer, inner)})


def _name(program: Program) -> str:
    return f"{' '.join(program.group)} {program.name}"


def _told(outer: Verdict, inner: Verdict) -> dict[str, Any]:
    """The two sides of a difference, in words."""
    return {
        side: f"{verdict.ended} {verdict.exit_code}, {'passed' if verdict.passed else 'not passed'}, "
        f"wrote {verdict.stdout[-300:].decode(errors='replace')!r}"
        for side, verdict in (("outside", outer), ("inside", inner))
    }


def _figures(tally: Tally) -> dict[str, Any]:
    rows = [
        {**dict(zip(COLUMNS, group, strict=False)), **count}  # the first three columns are the group
        for group, count in sorted(tally.counts.items())
    ]
    return {
        "rows": rows,
        "programs": tally.done,
        "differences": tally.differences,
        "varying": sorted(tally.varying),
        "missing": tally.missing,
        "is_well": tally.done > 0 and not tally.differences,
    }


def _show(found: Mapping[str, Any]) -> None:
    for name, value in found["header"].items():
        print(f"{name}: {value}")
    print(f"programs: {found['programs']} in {found['wall_s']} s, {AT_ONCE} at a time, each outside and inside\n")
    rows = [COLUMNS, *(tuple(str(row[name]) for name in COLUMNS) for row in found["rows"])]
    print("\n".join(report.columns(rows)))
    for why, count in found["missing"].items():
        print(f"\nnot run: {count} of {why}")
    for name in found["varying"]:
        print(f"\nnot the same twice outside, so its output does not count: {name}")
    for difference in found["differences"]:
        print(f"\ndiffers: {difference['program']}")
        print(f"  outside: {difference['outside']}\n  inside:  {difference['inside']}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.programs", description=__doc__)
    parser.add_argument("--one-in", type=int, default=1, metavar="N", help="one of N programs (default: 1, all)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which ones (default: 1)")
    parser.add_argument("--only", metavar="WORD", help="those of this set, language or variant")
    parser.add_argument("--json", metavar="FILE", help="write the figures and every difference there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
