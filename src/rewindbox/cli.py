"""The command line: words -> one of `commands.py`, and how it ended -> an exit code.

    0  all succeeded      1  code failed            2  the request is wrong        3  refused
    4  host or vm broke   130, 143  interrupted     141  nobody reads our output

argparse, and imports as late as they can be: starting must cost less than what is run. Nothing here knows
how anything is done.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import rewindbox
from rewindbox.errors import BadRequest, Internal, RewindboxError
from rewindbox.terminal import Interrupted, Stream, one_line

_BROKEN_PIPE = 141
_USING_VMS = {(name, None) for name in ("run", "exec", "cp", "rollback")} | {("vms", "create"), ("snapshot", "create")}
_MODULES = {
    **{"run": "running", "exec": "running", "doctor": "doctor"},
    **{"serve": "server.serve", "token": "server.serve"},
}
"""Where a command is, unless it is in `commands.py`. Only that is loaded."""
_LIMITS = (
    ("--cpu", "cpu_s", "S", float, "CPU seconds of all its processes"),
    ("--memory", "memory_mib", "MIB", int, "memory of all its processes"),
    ("--processes", "processes", "N", int, "processes and threads at once"),
    ("--output", "output_bytes", "BYTES", int, "bytes kept of each of stdout and stderr"),
    ("--file", "file_mib", "MIB", int, "largest file it may write"),
    ("--open-files", "open_files", "N", int, "descriptors a process may hold"),
    ("--disk", "disk_mib", "MIB", int, "what the vm's files may occupy"),
    ("--inodes", "inodes", "N", int, "files and folders the vm may have"),
)
_GLOBAL = {"store": None, "server": None, "token_file": None, "json": False, "color": "auto", "quiet": False}
_OF_THIS_HOST = ("serve", "token", "config", "pool")
_LATE = ("code", "reference", "file", "name")
"""Positional words that may be missing, and that argparse before Python 3.13 misses after an option."""


class Usage(BadRequest):
    """The words of the command line do not fit."""

    code = "usage"


class _Parser(argparse.ArgumentParser):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise Usage(message, remedy=f"see `{self.prog} --help`")


def main() -> NoReturn:
    """The process that is the command line."""
    code = run(sys.argv[1:])
    os._exit(code)  # everything is closed and written; taking the interpreter apart costs 10 ms more


def run(words: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    _keep_descriptors()
    out, err = Stream(1), Stream(2)
    try:
        _catch_signals()
        return _carried_out(words)
    except SystemExit as ending:  # --help and --version
        return _flushed(ending)
    except BrokenPipeError:
        return _BROKEN_PIPE
    except (RewindboxError, Interrupted) as error:
        return _tell(error, "--json" in words, out, err)
    except Exception as error:
        return _tell(_unexpected(error), "--json" in words, out, err)


def _carried_out(words: Sequence[str]) -> int:
    arguments = _parse(words)
    out, err = Stream(1, arguments.color), Stream(2, arguments.color)
    uses_vm = (arguments.command, getattr(arguments, "verb", None)) in _USING_VMS
    if uses_vm and not arguments.server and not getattr(arguments, "session", None):  # whose vm is the keeper's
        _start_ahead(arguments.store)
    name = "siege" if getattr(arguments, "attack", False) else _MODULES.get(arguments.command, "commands")
    module = import_module(f"rewindbox.{name}")
    from rewindbox.call import Call  # noqa: PLC0415  what --help does without

    code: int = module.main(Call(arguments, out, err))
    return code


def _start_ahead(store: str | None) -> None:
    """The launcher starts while the engine is imported, which takes as long: 60 ms of 210."""
    from rewindbox import backends, config  # noqa: PLC0415  as above

    with suppress(RewindboxError, OSError):  # whoever opens the store says it better
        settings = config.load(store=store)
        if settings.history.persist_history:
            config.check_owner(settings.folder)
            backends.ahead(settings.backend, os.path.join(settings.folder, "vms"))


def _keep_descriptors() -> None:
    """A closed standard stream would become the next file we open: the history, say."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _catch_signals() -> None:
    """The first signal ends in order; the second at once: what then runs is undone when the vm is next used."""
    first: list[int] = []

    def ending(number: int, _: FrameType | None) -> None:
        if first:
            os._exit(128 + number)
        first.append(number)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # what reads our output may have been ended by the same Ctrl-C
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(number, ending)


def _flushed(ending: SystemExit) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _BROKEN_PIPE
    return ending.code if isinstance(ending.code, int) else 0


def _unexpected(error: Exception) -> RewindboxError:
    return Internal(f"{type(error).__name__}: {error}", remedy="please report it, with REWINDBOX_DEBUG=1")


def _tell(error: RewindboxError | Interrupted, as_json: bool, out: Stream, err: Stream) -> int:
    """One line on standard error; with --json one document on standard output."""
    if os.environ.get("REWINDBOX_DEBUG"):
        import traceback  # noqa: PLC0415  2 ms

        traceback.print_exc()
    with suppress(OSError, RewindboxError):  # nobody hears it
        if as_json:
            from rewindbox import documents  # noqa: PLC0415  loads more than an error needs

            out.write(documents.document({"error": error.as_dict()}))
        else:
            err.write(f"{err.styled('rewindbox:', 'red')} {one_line(str(error))}\n")
    return error.exit_code


def _parse(words: Sequence[str]) -> argparse.Namespace:
    arguments, late = parser().parse_known_args(words)
    for word in late:
        place = next((name for name in _LATE if getattr(arguments, name, "") is None), None)
        if place is None or (word.startswith("-") and word != "-"):
            raise Usage(f"unknown argument {word!r}", remedy=f"see `rewindbox {arguments.command} --help`")
        setattr(arguments, place, word)
    for name, value in _GLOBAL.items():
        if not hasattr(arguments, name):
            setattr(arguments, name, value)
    arguments.server = _server(arguments)
    return arguments


def _server(arguments: argparse.Namespace) -> str | None:
    """Where the command asks; None: here. What is said nearest wins: a flag before the environment."""
    is_ours = arguments.command in _OF_THIS_HOST or getattr(arguments, "attack", False)
    if arguments.server is not None and (is_ours or arguments.store is not None):
        what = "--store" if arguments.store is not None else arguments.command
        raise Usage(f"--server with {what}, which is of this host", remedy="leave one of them out")
    if is_ours or arguments.store is not None:
        return None
    return arguments.server or os.environ.get("REWINDBOX_SERVER") or None


def parser() -> _Parser:
    """The whole command line."""
    every = _global_flags()
    top = _Parser(
        prog="rewindbox",
        parents=[every],
        description="Runs what a model wrote in an isolated vm, remembers every execution, can undo any of them.",
        epilog="Exit codes: 0 succeeded, 1 code failed, 2 wrong request, 3 refused, 4 host or vm broke.",
    )
    top.add_argument("--version", action="version", version=f"rewindbox {rewindbox.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> _Parser:
        made: _Parser = commands.add_parser(name, help=text, description=text, parents=[every])
        return made

    _running_flags(command)
    _looking_flags(command)
    _vm_flags(command, every)
    return top


def _global_flags() -> _Parser:
    """Accepted before and after the command: a default would overwrite what stood before it."""
    flags = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    flags.add_argument("--store", metavar="DIR", help="folder of history and vms")
    flags.add_argument("--server", metavar="URL", help="ask a `rewindbox serve`; or REWINDBOX_SERVER")
    flags.add_argument("--token-file", metavar="FILE", help="what it knows us by; or REWINDBOX_TOKEN")
    flags.add_argument("--json", action="store_true", help="one JSON document on standard output")
    flags.add_argument("--color", choices=("auto", "always", "never"), help="auto: on a terminal without NO_COLOR")
    flags.add_argument("-q", "--quiet", action="store_true", help="only what was asked for, no progress, no hints")
    return flags


def _running_flags(command: Any) -> None:
    run = command("run", "run the code blocks of a model's answer")
    run.add_argument("file", nargs="?", metavar="FILE", help="the answer; - or nothing: standard input")
    run.add_argument("--threshold", type=float, default=0.0, metavar="X", help="least confidence of a block, 0 to 1")
    run.add_argument("--request", metavar="TEXT", help="what the user had asked for; counts in the confidence")
    run.add_argument("--on-failure", choices=("stop", "continue", "rollback"), default="stop")
    run.add_argument("--table", action="store_true", help="end with the table in a pipe, too")
    one = command("exec", "run one piece of code; its output is ours")
    one.add_argument("language", metavar="LANGUAGE", help="python, bash ...; see `rewindbox languages`")
    one.add_argument("code", nargs="?", metavar="CODE", help="- or nothing: standard input")
    one.add_argument("--env", action="append", default=[], metavar="K=V", help="an environment variable; repeatable")
    one.add_argument("--workdir", metavar="DIR", help="a folder of the vm, relative to its home")
    given = one.add_mutually_exclusive_group()
    given.add_argument("--stdin", metavar="FILE", help="what the code reads; - is standard input, as it comes")
    given.add_argument(
        "-i", "--interactive", dest="stdin", action="store_const", const="-", help="the same as --stdin -"
    )
    one.add_argument("--on-failure", choices=("stop", "rollback"), help="rollback: everything as before, if it fails")
    session_help = "in a session of this name: variables stay for the next command"
    for parser in (run, one):
        parser.add_argument("--session", metavar="NAME", help=session_help)
        parser.add_argument("--vm", default="default", metavar="NAME", help="made when new; without: default")
        parser.add_argument("--agent", metavar="ID", help="who runs")
        limits = parser.add_argument_group("limits of each execution")
        limits.add_argument("--timeout", type=float, metavar="S", help="wall clock seconds")
        for flag, name, unit, kind, text in _LIMITS:
            limits.add_argument(flag, dest=f"limit_{name}", type=kind, metavar=unit, help=text)


def _looking_flags(command: Any) -> None:
    history = command("history", "list executions, newest first")
    history.add_argument("--vm", metavar="NAME")
    history.add_argument("--agent", metavar="ID")
    history.add_argument("--language", metavar="LANGUAGE", help="by its name or an alias")
    history.add_argument("--ended", metavar="HOW", help="exit, signal, timeout, output, memory or killed")
    history.add_argument("--failures", action="store_true", help="only those that did not succeed")
    history.add_argument("--session", metavar="NAME", help="what ran in sessions of this name")
    history.add_argument("--search", metavar="TEXT", help="that have it in their code or output, in any case")
    when = "today, yesterday, 2h, 3 days ago, or ISO 8601 (local without a zone)"
    history.add_argument("--since", metavar="WHEN", help=when)
    history.add_argument("--until", metavar="WHEN", help="the same, that day or moment included")
    history.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (100)")
    history.add_argument("--offset", type=int, default=0, metavar="N")
    history.add_argument("--export", action="store_true", help="all of it, a line of JSON each, in order of recording")
    command("show", "show an execution with its code and output").add_argument("execution", metavar="EXECUTION")
    command("languages", "list the languages: which may run, and where their programs are")
    command("pool", "list the vms of the pool: ready, running, stopped")
    verify = command("verify", "check that nobody changed the history")
    verify.add_argument(
        "--expect", metavar="HEAD", help="a head that an earlier verify has printed: was anything cut off?"
    )
    doctor = command("doctor", "try out what this host can do")
    doctor.add_argument("--attack", action="store_true", help="attack a vm of this host, in a few hundred ways")


def _vm_flags(command: Any, every: _Parser) -> None:
    copy = command("cp", "copy a file into or out of a vm; one side is VM:PATH")
    copy.add_argument("source", metavar="SRC", help="- is standard input")
    copy.add_argument("target", metavar="DST", help="- is standard output")
    vms = _verbs(command("vms", "make, list, stop and remove vms"))
    vms.add_parser("create", parents=[every]).add_argument("name", nargs="?", metavar="NAME")
    vms.add_parser("list", parents=[every])
    for verb in ("show", "stop", "rm"):
        vms.add_parser(verb, parents=[every]).add_argument("vm", metavar="VM")
    snapshot = _verbs(command("snapshot", "keep a state of a vm"))
    create = snapshot.add_parser("create", parents=[every])
    create.add_argument("vm", metavar="VM")
    create.add_argument("--name", dest="label", metavar="N", help="unique in the vm")
    snapshot.add_parser("list", parents=[every]).add_argument("vm", metavar="VM")
    remove = snapshot.add_parser("rm", parents=[every])
    remove.add_argument("vm", metavar="VM")
    remove.add_argument("snapshot", metavar="SNAPSHOT")
    back = command("rollback", "put a vm's files and live sessions back; history is kept")
    back.add_argument("vm", metavar="VM")
    back.add_argument("reference", nargs="?", metavar="SNAPSHOT_OR_POINT")
    back.add_argument("--before", metavar="EXECUTION", help="to before it ran")
    back.add_argument("--last-success", action="store_true", help="to after the last execution that succeeded")
    back.add_argument("--preview", action="store_true", help="change nothing; show what would be undone, files too")
    back.add_argument("--rebuild", action="store_true", help="sessions that are gone: run again what they had run")
    _server_flags(command, every)
    _verbs(command("config", "show the settings in force")).add_parser("show", parents=[every])


def _server_flags(command: Any, every: _Parser) -> None:
    serve = command("serve", "serve all of this over HTTP")
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (127.0.0.1)")
    serve.add_argument("--port", type=int, default=8080, metavar="N", help="0: one that is free (8080)")
    serve.add_argument("--name", action="append", metavar="NAME", help="a name by which it is called; repeatable")
    serve.add_argument("--origin", action="append", metavar="URL", help="web pages that may ask; repeatable")
    serve.add_argument("--no-auth", action="store_true", help="without tokens; only on a loopback address")
    token = _verbs(command("token", "who may ask a server of this store"))
    create = token.add_parser("create", parents=[every])
    create.add_argument("token_name", metavar="NAME")
    create.add_argument("--agent", metavar="ID", help="it sees and uses what is this agent's, and nothing else")
    token.add_parser("list", parents=[every])
    token.add_parser("revoke", parents=[every]).add_argument("token_name", metavar="NAME")


def _verbs(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(dest="verb", metavar="VERB", required=True)
