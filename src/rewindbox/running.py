"""`run` and `exec`: code goes into a vm, what it writes comes out as it is written, and Ctrl-C ends it in order."""

import os
import select
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rewindbox import documents, show
from rewindbox.call import FILE_BYTES, TEXT_BYTES, Call, opened, read, vm_id
from rewindbox.door import Rewindbox, Vm
from rewindbox.errors import InputClosed, InvalidArgument, RewindboxError
from rewindbox.execution import Execution
from rewindbox.kept import KeptVm
from rewindbox.limits import Limits
from rewindbox.stdin import Stdin
from rewindbox.telling import Bare, Live, Plain, Teller, Told, counts, summary, told
from rewindbox.terminal import Interrupted, Printer, visible

_PIECE_BYTES = 64 << 10


def main(call: Call) -> int:
    """Carry out `run` or `exec`."""
    return {"run": _run, "exec": _exec}[call.arguments.command](call)


def _run(call: Call) -> int:
    arguments = call.arguments
    text = read(arguments.file or "-", "answer").decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    blocks: list[Told] = []
    failure: RewindboxError | Interrupted | None = None
    with opened(call) as box:
        try:
            _run_blocks(call, box, text, blocks)
        except (RewindboxError, Interrupted) as error:
            if not arguments.json:
                raise
            failure = error
        if arguments.json:
            _emit_run(call, box, blocks, failure)
        elif not arguments.quiet:
            _say_how_it_went(call, box, blocks)
    failed = any(block.execution is not None and not block.execution.success for block in blocks)
    return failure.exit_code if failure else int(failed)


def _run_blocks(call: Call, box: Rewindbox, text: str, blocks: list[Told]) -> None:
    arguments, teller = call.arguments, _teller(call)
    with _told_if_interrupted(box, arguments.vm), _printer(teller) as printer:

        def decided(number: int, decision: Any) -> None:
            blocks.append(told(number, decision))
            printer.put(partial(teller.decided, blocks[-1]))

        for execution in box.run(
            text,
            arguments.vm,
            on_failure=arguments.on_failure,
            threshold=arguments.threshold,
            request=arguments.request,
            agent_id=arguments.agent,
            limits=_timed(box, arguments.timeout),
            session=arguments.session or False,
            on_decision=decided,
            on_output=lambda name, data: printer.put(partial(teller.output, name, data)),
        ):
            blocks[-1].execution = execution
            printer.put(partial(teller.ended, blocks[-1]))
        if blocks and (last := blocks[-1]).execution is not None and not last.execution.success:
            planned = box.plan(text, threshold=arguments.threshold, request=arguments.request)
            for number, decision in enumerate(planned[len(blocks) :], len(blocks)):
                decided(number + 1, _unrun(decision, f"block {last.number} failed"))


def _unrun(decision: Any, reason: str) -> Any:
    """A decision on a block that would have run, or been written."""
    return decision if decision.skipped and decision.path is None else replace(decision, skipped=reason, path=None)


def _timed(box: Rewindbox, timeout_s: float | None) -> Limits | None:
    return None if timeout_s is None else replace(box.settings.limits, wall_s=timeout_s)


def _teller(call: Call) -> Teller:
    if call.arguments.quiet or call.arguments.json:
        return Bare(call.out, call.err, mute=call.arguments.json)
    return Live(call.out) if call.out.is_terminal else Plain(call.out)


def _printer(teller: Teller) -> Printer:
    """When nobody reads what we write, the code is stopped, as by SIGPIPE."""
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    printer = Printer(
        lambda: signal.pthread_kill(main_thread, signal.SIGUSR1), teller.tick if isinstance(teller, Live) else None
    )

    def broken(*_: Any) -> None:
        raise printer.error or BrokenPipeError

    signal.signal(signal.SIGUSR1, broken)
    return printer


@contextmanager
def _told_if_interrupted(box: Rewindbox, vm: str) -> Iterator[None]:
    begun = datetime.now(UTC)
    try:
        yield
    except Interrupted as interrupted:
        page = box.history(vm, limit=1, since=begun)
        interrupted.execution_id = next((entry.id for entry in page.entries if entry.ended == "killed"), None)
        raise


def _emit_run(call: Call, box: Rewindbox, blocks: list[Told], failure: RewindboxError | Interrupted | None) -> None:
    executions = [block.execution for block in blocks if block.execution is not None]
    value = {
        "vm_id": vm_id(box, call.arguments.vm),
        "executions": [execution.as_dict() for execution in executions],
        "blocks": [block.as_dict() for block in blocks],
        "ok": failure is None and all(execution.success for execution in executions),
    }
    call.out.write(documents.document(value | ({"error": failure.as_dict()} if failure else {})))


def _say_how_it_went(call: Call, box: Rewindbox, blocks: list[Told]) -> None:
    if not blocks:
        call.err.write("rewindbox: the text has no code blocks\n")
        return
    name = call.arguments.vm
    first = next((block.execution for block in blocks if block.execution is not None), None)
    if call.arguments.table or call.out.is_terminal:
        call.out.write(summary(call.out, blocks) + "\n")
    if not call.out.is_terminal:
        call.out.write(f"vm {name} ({vm_id(box, name)}): {counts(blocks)}\n")
        return
    if first is not None:
        back = call.out.styled(f"{call.program} rollback {shlex.quote(name)} --before {show.short(first.id)}", "cyan")
        call.out.write(f"vm {name}: {counts(blocks)}\nTo undo all of it:\n  {back}\n")


def _exec(call: Call) -> int:
    arguments = call.arguments
    if arguments.code in (None, "-") and arguments.stdin == "-":
        raise InvalidArgument("code and its input are both standard input", remedy="give one of them as a file or word")
    code = arguments.code
    if code in (None, "-"):
        code = read("-", "code", TEXT_BYTES).decode("utf-8", "surrogateescape")
    environment = dict(_variable(text) for text in arguments.env)
    with opened(call) as box:
        vm, teller = box.vm(arguments.vm, kept=_is_kept(box, arguments)), _bare(call)
        with _told_if_interrupted(box, vm.id), _printer(teller) as printer, _input(vm, arguments.stdin) as stdin:
            execution = vm.execute(
                arguments.language,
                code,
                agent_id=arguments.agent,
                limits=_given_limits(box, arguments),
                timeout_seconds=arguments.timeout,
                environment=environment,
                stdin=stdin,
                working_dir=arguments.workdir,
                on_output=lambda name, data: printer.put(partial(teller.output, name, data)),
                rollback_on_failure=_undo(arguments.on_failure),
                session=arguments.session,
            )
            for text in show.displays(execution):
                printer.put(partial(teller.output, "stdout", text.encode("utf-8", "replace")))
            printer.put(teller.ended)
        if arguments.json:
            call.emit(execution.as_dict(), str)
        elif call.out.is_terminal and call.err.is_terminal and not arguments.quiet:
            call.err.write(_ending(call, execution))
    return int(not execution.success)


@contextmanager
def _input(vm: Vm, source: str | None) -> Iterator[bytes | Stdin]:
    """What the code reads. Our standard input goes to it as it comes; a keeper takes it whole."""
    if source is None:
        yield b""
    elif source != "-" or isinstance(vm.inner, KeptVm):
        yield read(source, "input of the code", FILE_BYTES)
    else:
        stdin, stop = Stdin(), os.eventfd(0, os.EFD_CLOEXEC)
        passing_on = threading.Thread(target=_pass_on, args=(stdin, stop))
        passing_on.start()
        try:
            yield stdin
        finally:
            stdin.end()
            os.eventfd_write(stop, 1)
            passing_on.join()
            os.close(stop)


def _pass_on(stdin: Stdin, stop: int) -> None:
    """Until our standard input ends, or nobody reads it any more."""
    try:
        while stop not in select.select([0, stop], [], [])[0]:
            if not (data := os.read(0, _PIECE_BYTES)):
                break
            stdin.write(data, wait_s=threading.TIMEOUT_MAX)
    except OSError:  # there is none, or its terminal was hung up
        pass
    except InputClosed:
        return
    stdin.close()


def _is_kept(box: Rewindbox, arguments: Any) -> bool:
    """A live session is to outlive this command."""
    return arguments.session is not None and box.settings.languages.find(arguments.language).session == "live"


def _given_limits(box: Rewindbox, arguments: Any) -> Limits | None:
    """A keeper has settings of its own: what this command was given goes along."""
    given = any(value is not None for name, value in vars(arguments).items() if name.startswith("limit_"))
    limits: Limits = box.settings.limits
    return limits if given and _is_kept(box, arguments) else None


def _bare(call: Call) -> Bare:
    return Bare(call.out, call.err, mute=call.arguments.json)


def _undo(on_failure: str | None) -> bool | None:
    return None if on_failure is None else on_failure == "rollback"


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidArgument(f"--env {text!r}", remedy="give NAME=VALUE")
    return name, value


def _ending(call: Call, execution: Execution) -> str:
    word, style = show.marked(execution)
    parts = [show.seconds(execution.wall_s), show.short(execution.id), visible(execution.error or "")]
    if execution.rolled_back_to:
        parts.append("everything as before" if execution.session else "files as before")
    return f"{call.err.styled(word, style)}  {call.err.styled('  '.join(filter(None, parts)), 'dim')}\n"
