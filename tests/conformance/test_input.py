"""Standard input that is written while a job runs: in order, bounded, and nobody's to wait for."""

import anyio
import pytest

from conftest import PATIENCE_S, eventually, out, run
from rewindbox.errors import BadRequest, InputClosed, InputFull, InvalidArgument
from rewindbox.stdin import BUFFER_BYTES, Stdin


async def test_a_program_that_asks_is_answered(vm):
    """What a callback writes is read at once, and end of file follows the close."""
    stdin = Stdin()

    def answer(_, data):
        stdin.write("four\n") if data == b"2+2? " else stdin.close()

    outcome = await run(vm, "printf '2+2? '; read x; echo $x; cat; echo end", stdin=stdin, on_output=answer)
    assert outcome.stdout == b"2+2? four\nend\n"


async def test_nothing_to_read_is_read_at_once(vm):
    """Without input every way to standard input finds its end, not an error; one byte is found on each, too."""
    code = "cat /dev/stdin && cat /dev/fd/0 && cat /proc/self/fd/0 && read -N 2 x < /dev/stdin; echo $x $?"
    assert await out(vm, code) == "1\n"
    assert await out(vm, code, stdin=b"y") == "yyyy 1\n"


async def test_all_bytes_in_order(vm):
    """Far more than fits anywhere comes whole and in order, also by way of /dev/stdin; what does not fit is refused."""
    piece, refused = bytes(range(256)) * 1024, []
    for program in ("md5sum", "sleep 0; cat /dev/stdin | md5sum"):
        stdin = Stdin()

        async def write(stdin=stdin):
            for _ in range(40):
                while True:
                    try:
                        stdin.write(piece)
                        break
                    except InputFull:
                        refused.append(stdin.given_bytes)
                        await eventually(lambda: stdin._has_room_for(piece), "the program reads")
            stdin.close()

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            told = await out(vm, program, stdin=stdin)
        assert told == await out(vm, program, stdin=piece * 40)
    assert refused


async def test_who_never_reads_stops_nobody(vm):
    """Input for a program that does not read is bounded: then it is refused by name; the job goes on and ends."""
    stdin, full = Stdin(), anyio.Event()

    async def fill():
        await eventually(lambda: stdin.given_bytes == 1, "it runs")
        try:
            while True:
                stdin.write(b"x" * 65536)
                await anyio.lowlevel.checkpoint()
        except InputFull:
            full.set()

    async with anyio.create_task_group() as group:
        group.start_soon(fill)
        code = "echo; until [ -e go ]; do read -t 0.01 <> <(:); done"
        group.start_soon(lambda: run(vm, code, stdin=stdin, on_output=lambda *_: stdin.write("x")))
        with anyio.fail_after(PATIENCE_S):
            await full.wait()
        assert BUFFER_BYTES <= stdin.given_bytes <= BUFFER_BYTES + (128 << 10)
        await vm.write("/home/agent/go", b"")
    with pytest.raises(InputClosed, match="has closed it, or has ended"):
        stdin.write(b"x")


async def test_a_program_closes_its_input(vm):
    """What is written after that is refused, while the program goes on."""
    stdin, closed = Stdin(), anyio.Event()

    async def write():
        def is_closed():
            try:
                stdin.write(b"x")
            except InputClosed as error:
                assert "the program has closed it" in str(error)
                return True
            return False

        await eventually(is_closed, "it has closed its input")
        closed.set()
        await vm.write("/home/agent/go", b"")

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        outcome = await run(vm, "exec < /dev/null; until [ -e go ]; do read -t 0.01 <> <(:); done; true", stdin=stdin)
    assert closed.is_set() and outcome.exit_code == 0


async def test_it_is_read_only_from_inside(vm):
    """Code cannot open its standard input to write to it, and so keep it from ending."""
    stdin = Stdin()
    stdin.close()
    assert await out(vm, "(: > /dev/stdin) 2>/dev/null || echo refused; cat", stdin=stdin) == "refused\n"


async def test_one_for_each(vm):
    """What an execution has had no other can have; what is too much at once never fits; nothing runs on a refusal."""
    stdin = Stdin()
    with pytest.raises(InvalidArgument, match="at once"):
        stdin.write(b"x" * (BUFFER_BYTES + 1))
    with pytest.raises(BadRequest):
        await run(vm, "true", stdin=stdin, working_dir="missing")
    with pytest.raises(InputClosed):
        stdin.write(b"x")
    with pytest.raises(InvalidArgument, match="another execution"):
        await run(vm, "touch /home/agent/ran", stdin=stdin)
    assert await out(vm, "ls") == ""
