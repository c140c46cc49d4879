"""Toolchains that people use behave inside a vm: in a fresh execution, the python ones also in a live session.

What the host does not have is skipped by its name; under CI everything must be there.
"""
# ruff: noqa: E501  programs that are run inside stand here as they are

import os
import shutil

import pytest

from conftest import needs, out
from rewindbox.backends.namespace.orders import PATH, find_program

pytestmark = pytest.mark.anyio

PYTHON = {
    "numpy": """
import numpy, numpy.linalg
a = numpy.arange(9.0).reshape(3, 3) + numpy.eye(3)
assert numpy.allclose(a @ numpy.linalg.inv(a), numpy.eye(3))
numpy.save("a.npy", a)
assert (numpy.load("a.npy", mmap_mode="r") == a).all()
""",
    "pandas": """
import pandas
frame = pandas.DataFrame({"town": ["a", "b", "a"], "euro": [1, 2, 3]})
frame.to_csv("f.csv", index=False)
assert pandas.read_csv("f.csv").groupby("town").euro.sum().to_dict() == {"a": 4, "b": 2}
""",
    "matplotlib": """
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plot
plot.plot([1, 2, 3])
plot.title("three")
plot.savefig("p.png")
assert open("p.png", "rb").read(8) == b"\\x89PNG\\r\\n\\x1a\\n"
""",
    "threads": """
import concurrent.futures, queue, threading
lock, event, given = threading.Lock(), threading.Event(), queue.Queue()
total = 0
def add():
    global total
    event.wait()
    with lock:
        total += given.get()
threads = [threading.Thread(target=add) for _ in range(20)]
[t.start() for t in threads]
[given.put(1) for _ in threads]
event.set()
[t.join() for t in threads]
assert total == 20
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(abs, range(-50, 0))) == 1275
""",
    "asyncio": """
import asyncio
async def main():
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async def ask(word):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(word + b"\\n")
        told = await reader.read()
        writer.close()
        return told
    assert await asyncio.gather(*(ask(b"abc") for _ in range(10))) == [b"ABC\\n"] * 10
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert (await process.communicate(b"through"))[0] == b"through"
    try:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
        raise SystemExit("no timeout")
    except TimeoutError:
        pass
    server.close()
asyncio.run(main())
""",
    "multiprocessing": """
import multiprocessing, multiprocessing.shared_memory, operator
from operator import neg
fork = multiprocessing.get_context("fork")
with fork.Pool(2) as pool:
    assert pool.map(neg, [1, 2, 3]) == [-1, -2, -3]
shared = multiprocessing.shared_memory.SharedMemory(create=True, size=16)
def write(name, lock, event):
    other = multiprocessing.shared_memory.SharedMemory(name)
    with lock:
        other.buf[0] = 42
    other.close()
    event.set()
lock, event, parcel = fork.Semaphore(1), fork.Event(), fork.Queue()
process = fork.Process(target=write, args=(shared.name, lock, event))
process.start()
assert event.wait(30)
process.join()
assert (process.exitcode, shared.buf[0]) == (0, 42)
shared.close()
shared.unlink()
process = fork.Process(target=parcel.put, args=("x",))
process.start()
assert parcel.get(timeout=30) == "x"
process.join()
with fork.Manager() as manager:
    numbers = manager.list([1, 2])
    numbers.append(3)
    assert list(numbers) == [1, 2, 3]
""",
    "subprocess": """
import subprocess, sys
assert subprocess.run("echo a | tr a b", shell=True, capture_output=True, text=True).stdout == "b\\n"
assert subprocess.run([sys.executable, "-c", "import sys; sys.exit(len(sys.stdin.read()))"], input=b"12345").returncode == 5
try:
    subprocess.run(["sleep", "1000"], timeout=0.05)
    raise SystemExit("no timeout")
except subprocess.TimeoutExpired:
    pass
with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
    process.terminate()
    assert process.wait() == -15
""",
    "sqlite3": """
import os, sqlite3, threading
one = sqlite3.connect("w.db", timeout=30)
assert one.execute("pragma journal_mode=wal").fetchone() == ("wal",)
one.execute("create table if not exists t (x)")
one.execute("delete from t")
one.commit()
def add():
    mine = sqlite3.connect("w.db", timeout=30)
    for number in range(20):
        with mine:
            mine.execute("insert into t values (?)", (number,))
    mine.close()
threads = [threading.Thread(target=add) for _ in range(3)]
[t.start() for t in threads]
[t.join() for t in threads]
assert os.path.exists("w.db-wal")
assert one.execute("select count(*), sum(x) from t").fetchone() == (60, 570)
assert one.execute("pragma integrity_check").fetchone() == ("ok",)
one.close()
""",
}
PACKAGES = ("numpy", "pandas", "matplotlib")

SPAWN = """
import multiprocessing
from operator import neg
if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(2) as pool:
        assert pool.map(neg, [1, 2, 3]) == [-1, -2, -3]
    queue = spawn.Queue()
    process = spawn.Process(target=print, args=("from the child",))
    process.start()
    process.join()
    assert process.exitcode == 0
    print("well")
"""

SHELL = {
    "git": """
git config --global user.email a@example.org; git config --global user.name a
git init -q -b main r && cd r && mkdir d && echo one > d/f && git add . && git commit -qm first
git checkout -q -b side && git mv d e && echo two >> e/f && git commit -qam second
git checkout -q main && git merge -q side && git log --oneline | wc -l
cd .. && git clone -q r copy && cat copy/e/f && git -C copy status --porcelain && git -C copy fsck 2>/dev/null
git -C copy push -q origin HEAD:other && git -C r branch --list other
""",
    "gcc": """
printf '#include <stdio.h>\\n#include <math.h>\\nint twice(int);int main(void){printf("%%d %%.1f\\\\n",twice(21),sqrt(2.25));return 3;}' > m.c
echo 'int twice(int x){return 2*x;}' > t.c
gcc -O2 -Wall -c m.c && gcc -shared -fPIC -o libt.so t.c && gcc -o m m.o -L. -lt -lm -Wl,-rpath,"$PWD" && ./m; echo $?
echo 'int main(void){return 4;}' > a.c && gcc -fsanitize=address,undefined -o a a.c && ./a; echo $?
""",
    "awk": "printf 'a 1\\nb 2\\na 3\\n' | awk '{s[$1] += $2} END {for (k in s) print k, s[k]}' | sort",
    "sed": "echo one > f; sed -i.old 's/o\\(n\\)e/\\1/' f; cat f f.old",
    "tar": "mkdir -p t/d; echo x > t/d/f; chmod 4751 t/d/f; ln t/d/f t/h; ln -s f t/d/l; tar czf t.tgz t; rm -r t; tar xpzf t.tgz; stat -c '%a %h %N' t/d/f t/d/l; cat t/h",
    "perl": 'perl -MPOSIX -MFile::Temp=tempfile -e \'my ($h, $n) = tempfile(); print $h "b\\na\\n"; close $h; print sort { $a cmp $b } `cat $n`; print floor(2.7), "\\n"; exit(fork // 9) unless fork; wait; print $? >> 8, "\\n"\' | head -3',
    "make": "printf 'all: b c\\n%%: %%.in\\n\\tcp $< $@\\n' > Makefile; echo 1 > b.in; echo 2 > c.in; make -s -j2 && cat b c && make -q && echo fresh",
    "chown": "touch f; chown 0 f 2>&1; chown :5 f 2>&1 | cut -d: -f3; chown $(id -u):$(id -g) f && cp -a /usr/bin/env . && echo fine",
    "php": 'php -r \'echo ctype_digit("42"), posix_getuid(), count(token_get_all("<?php 1;")), class_exists("Phar"), PHP_EOL;\'',
    "python3": """
python3 -m venv v && . v/bin/activate && pip --version | cut -c1-3
echo 'answer = 42' > v/lib/python3.*/site-packages/own.py 2>/dev/null || echo 'answer = 42' > "$(echo v/lib/python3*/site-packages)/own.py"
python -c 'import own, sys; print(own.answer, sys.prefix != sys.base_prefix)'
""",
}
TOLD = {
    "git": "2\none\ntwo\n  other\n",
    "gcc": "42 1.5\n3\n4\n",
    "awk": "a 4\nb 2\n",
    "sed": "n\none\n",
    "tar": "4751 2 't/d/f'\n777 1 't/d/l' -> 'f'\nx\n",
    "perl": "a\nb\n2\n",
    "make": "1\n2\nfresh\n",
    "php": "1100031\n",
    "chown": "chown: changing ownership of 'f': Operation not permitted\n Operation not permitted\nfine\n",
    "python3": "pip\n42 True\n",
}

NODE = """
const fs = require("fs"), assert = require("assert"), child = require("child_process");
const { Worker } = require("worker_threads");
fs.mkdirSync("d/e", { recursive: true });
fs.writeFileSync("d/e/f", "x".repeat(1000));
fs.appendFileSync("d/e/f", "y");
assert.strictEqual(fs.statSync("d/e/f").size, 1001);
fs.renameSync("d/e/f", "d/g");
fs.rmSync("d", { recursive: true });
assert.strictEqual(child.execSync("echo a | tr a b").toString(), "b\\n");
assert.strictEqual(child.spawnSync("sh", ["-c", "exit 7"]).status, 7);
fs.writeFileSync("w.js", "const w = require('worker_threads'); w.parentPort.on('message', n => { w.parentPort.postMessage(2 * n); w.parentPort.close() })");
fs.writeFileSync("c.js", "process.on('message', n => { process.send(n + 1); process.disconnect() })");
const worker = new Worker("./w.js");
worker.on("message", n => {
  assert.strictEqual(n, 42);
  const forked = child.fork("./c.js");
  forked.on("message", n => { assert.strictEqual(n, 8); console.log("well") });
  forked.send(7);
});
worker.postMessage(21);
"""


def available(program: str) -> None:
    """Skip what the host has not where a vm finds it, by its name."""
    if find_program(program) is None and shutil.which(program, path=PATH) is None:
        absent(f"no {program} where a vm could find it")


def absent(text: str) -> None:
    pytest.fail(text) if os.environ.get("CI") else pytest.skip(text)


async def has_package(vm, name: str) -> None:
    """Skip where the host's python has no such package."""
    if name in PACKAGES and "None" in await out(
        vm, f"import importlib.util as u; print(u.find_spec('{name}'))", "python"
    ):
        absent(f"no {name} for the python of a vm")


@pytest.mark.parametrize("name", PYTHON)
async def test_python_in_an_execution(vm, name):
    """The package or module does its work in a fresh execution."""
    await has_package(vm, name)
    assert await out(vm, PYTHON[name] + "print('well')", "python") == "well\n"


@pytest.mark.parametrize("name", PYTHON)
async def test_python_in_a_session(box, backend, name):
    """The same in a live session, twice, and once more after going back to between the two."""
    vm = await box.vm("one")
    probe = await vm.execute("python", f"import importlib.util as u; print(u.find_spec('{name}'))")
    if name in PACKAGES and "None" in probe.stdout:
        absent(f"no {name} for the python of a vm")
    session = await vm.session()
    first = await session.execute(PYTHON[name] + "print('well')")
    assert (first.stdout, first.success) == ("well\n", True), first.stderr
    again = await session.execute(PYTHON[name] + "print('well')")
    assert (again.stdout, again.success) == ("well\n", True), again.stderr
    await vm.rollback(first.after)
    last = await session.execute(PYTHON[name] + "print('well')")
    assert (last.stdout, last.success) == ("well\n", True), last.stderr


async def test_processes_that_are_spawned(vm):
    """multiprocessing's spawn finds the program again that it starts in each child."""
    assert await out(vm, SPAWN, "python") == "from the child\nwell\n"


async def test_processes_that_are_spawned_in_a_session(box):
    """In a session, which has no file that it came from, spawn starts children of what can be imported."""
    session = await (await box.vm("one")).session()
    told = await session.execute(SPAWN)
    assert (told.stdout, told.success) == ("from the child\nwell\n", True), told.stderr


@pytest.mark.parametrize("name", SHELL)
async def test_tools(vm, name):
    """The tool does its usual work on the vm's files."""
    available(name)
    assert await out(vm, SHELL[name]) == TOLD[name]


async def test_node(backend, vm):
    """Files, child processes, worker threads and forks of node."""
    needs(backend, "javascript")
    assert await out(vm, NODE, "javascript") == "well\n"
