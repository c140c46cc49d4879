"""What the supervisor is told to run, and what its answer means."""

import os
import shlex
import shutil
import signal
from typing import Any

from rewindbox.backends.base import Job, Outcome
from rewindbox.backends.namespace import shell
from rewindbox.backends.namespace.output import Output
from rewindbox.errors import InvalidArgument, UnsupportedLanguage
from rewindbox.execution import EXIT_KILLED, EXIT_TIMEOUT, Ended

HOME = "/home/agent"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
ENVIRONMENT = {
    "HOME": HOME,
    "USER": "agent",
    "LOGNAME": "agent",
    "SHELL": "/bin/bash",
    "PATH": PATH,
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "TMPDIR": "/tmp",  # noqa: S108  the vm's own
    "TERM": "dumb",
    # There is no network to come back: 71 s of `npm install` become 0.8 s.
    "PIP_RETRIES": "0",
    "npm_config_fetch_retries": "0",
    # Who looks for leaks stops its own threads by ptrace, and where that is refused any program built with gcc's
    # -fsanitize=address ends in a failure; all else that it finds is found.
    "LSAN_OPTIONS": "detect_leaks=0",
    "PYTHONUNBUFFERED": "1",  # output reaches the caller when it is written, not when the program ends
}
_STATES = "/var/lib/rewindbox/sessions"
_ENVIRONMENT_MAX_BYTES = 64 * 1024
_PATH_MAX_BYTES = 4000


def order(job: Job) -> dict[str, Any]:
    environment = {**ENVIRONMENT, **job.language.environment, **job.environment}
    if job.environment:
        _check_environment(environment)
    program = find_first(job.language.programs)
    if program is None:
        raise UnsupportedLanguage(
            f"{job.language.name}: {job.language.program} is not on this host",
            remedy=f"install {job.language.package or 'it'}, below /usr",
        )
    file = f"{job.id}.{job.language.extension}"
    environment.setdefault("PYTHONPATH", os.path.join(HOME, job.working_dir) if job.working_dir else HOME)
    return {
        "op": "execute",
        "session": job.session if job.language.session == "live" else None,
        "code": job.code,
        "file": file,
        "program": "/bin/sh" if job.language.compile else program,
        "command": _command(job, file, program),
        "folder": checked_path(job.working_dir) if job.working_dir else None,
        "environment": environment,
        "limits": job.limits.as_dict(),
    }


def _check_environment(environment: dict[str, str]) -> None:
    size = 0
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidArgument(f"environment variable {name!r}", remedy="names without '=', values without NUL")
        try:
            size += len(os.fsencode(name)) + len(os.fsencode(value))
        except UnicodeEncodeError as error:
            remedy = "give it without lone surrogates"
            raise InvalidArgument(f"environment variable {name!r} is no text", remedy=remedy) from error
    if size > _ENVIRONMENT_MAX_BYTES:
        raise InvalidArgument(f"the environment is over {_ENVIRONMENT_MAX_BYTES} bytes", remedy="write a file instead")


def _command(job: Job, file: str, program: str) -> list[str]:
    path, binary = f"/run/code/{file}", f"/run/{job.id}"
    if job.session is not None and job.language.session == "saved":
        return shell.command(path, state_file(job.session))

    def filled(words: tuple[str, ...]) -> list[str]:
        return [
            word.replace("{file}", path).replace("{binary}", binary).replace("{program}", program) for word in words
        ]

    run = filled(job.language.run)
    if not job.language.compile:
        return run
    return ["sh", "-c", '"$@" || exit; exec ' + shlex.join(run), "sh", *filled(job.language.compile)]


def state_file(session: str) -> str:
    """Where a bash session is saved."""
    return f"{_STATES}/{session}.bash"


def outcome(job: Job, answer: dict[str, Any], output: Output) -> Outcome:
    ended, exit_code, error = _ending(job, answer, output)
    return Outcome(
        ended=ended,
        exit_code=exit_code,
        stdout=bytes(output.kept["stdout"]),
        stderr=bytes(output.kept["stderr"]),
        truncated=output.truncated,
        wall_s=answer["wall_s"],
        cpu_s=answer["cpu_s"],
        memory_peak_bytes=answer["memory_peak_bytes"],
        error=error,
        displays=tuple(output.displays()),
        displays_bytes=len(output.kept.get(None, b"")),
        lost_session=answer.get("session") == "lost" or (output.has_displays and output.truncated),
        gone=tuple(answer.get("ended", ())),
    )


def _ending(job: Job, answer: dict[str, Any], output: Output) -> tuple[Ended, int, str | None]:
    """How it ended. Our reason counts when our signal did end it; too much output always counts."""
    limits, code = job.limits, os.waitstatus_to_exitcode(answer["status"])
    cpu_text = f"CPU time limit of {limits.cpu_s:g} s used up"
    if output.truncated:
        return "output", EXIT_KILLED, f"output limit of {limits.output_bytes} bytes reached"
    if answer["why"] == "oom":
        return "memory", EXIT_KILLED, f"memory limit of {limits.memory_mib} MiB reached"
    if code == -signal.SIGKILL and answer["why"]:
        table: dict[str, tuple[Ended, int, str]] = {
            "wall": ("timeout", EXIT_TIMEOUT, f"Execution timeout after {round(limits.wall_s * 1000)}ms"),
            "cpu": ("timeout", EXIT_TIMEOUT, cpu_text),
            "memory": ("memory", EXIT_KILLED, f"memory limit of {limits.memory_mib} MiB reached"),
            "disk": (
                "killed",
                EXIT_KILLED,
                f"disk limit of {limits.disk_mib} MiB or {limits.inodes} files reached",
            ),
            "processes": ("killed", EXIT_KILLED, f"limit of {limits.processes} processes and threads reached"),
            "cancel": ("killed", EXIT_KILLED, "cancelled"),
            "unstarted": ("killed", EXIT_KILLED, "it could not be started: the host had no room or no time for it"),
            "broken": ("killed", EXIT_KILLED, "the code closed or misused its session's own descriptors"),
        }
        return table[answer["why"]]
    if code in (-signal.SIGXCPU, -signal.SIGKILL) and answer["cpu_s"] >= limits.cpu_s:
        return "timeout", EXIT_TIMEOUT, cpu_text
    gone = "the session's process ended" if answer.get("session") == "lost" else None
    if code < 0:
        return "signal", 128 - code, gone
    return "exit", code, gone


def checked_path(path: str) -> str:
    """A path as the vm takes it; bytes that are no UTF-8 as `os.fsdecode` gives them.

    Raises InvalidArgument: empty, NUL, no bytes, or longer than the kernel takes.
    """
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError as error:
        remedy = "give it without lone surrogates, but for those of os.fsdecode"
        raise InvalidArgument(f"path {path[:80]!r}", remedy=remedy) from error
    if not 0 < size <= _PATH_MAX_BYTES or "\0" in path:
        raise InvalidArgument(f"path {path[:80]!r}", remedy=f"give a path of 1 to {_PATH_MAX_BYTES} bytes without NUL")
    return path


def find_first(programs: tuple[str, ...]) -> str | None:
    """Where a vm finds the first of these programs that it has."""
    for program in programs:
        if (found := find_program(program)) is not None:
            return found
    return None


def find_program(program: str) -> str | None:
    """Where a vm finds a program: on its PATH, below the host's /usr, executable for everyone."""
    known = _found.get(program)
    if known is not None and os.access(known, os.X_OK):
        return known
    found = shutil.which(program, path=PATH)
    if found is None or not os.path.realpath(found).startswith("/usr/"):
        return None
    _found[program] = found
    return found


_found: dict[str, str] = {}
