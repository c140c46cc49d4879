"""A session: variables that live on from one execution to the next, and go back with the vm."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rewindbox.backends.base import Job, Outcome, WentBack
from rewindbox.errors import BadRequest, SessionNotFound, UnsupportedLanguage
from rewindbox.execution import Execution
from rewindbox.history import History
from rewindbox.language import Language
from rewindbox.points import Point, Rebuilt, Rollback
from rewindbox.registry import check_name

if TYPE_CHECKING:
    from rewindbox.kept import KeptVm
    from rewindbox.remote import RemoteVm
    from rewindbox.vm import AsyncVm


class AsyncSession:
    """A session of a vm. Executions in it are executions of the vm: they queue, are recorded, and leave points."""

    def __init__(self, vm: "AsyncVm | KeptVm | RemoteVm", language: str, name: str) -> None:
        self.vm, self.language, self.name = vm, language, name

    def __repr__(self) -> str:
        return f"<{self.language} session {self.name} of {self.vm!r}>"

    async def execute(self, code: str, **options: Any) -> Execution:
        """Run one piece of code; see `AsyncVm.execute`.

        What it raises is shown on stderr, and exit code 1; its variables stay as it left them, unless
        `rollback_on_failure` says otherwise. Where its process ends (a timeout, `os._exit`, a crash), files and
        variables are those of before.
        """
        return await self.vm.execute(self.language, code, session=self.name, **options)

    async def close(self) -> None:
        """End it. Idempotent."""
        with suppress(SessionNotFound):
            await self.vm.end_session(self.name, self.language)


def check_session(job: Job) -> None:
    """Raises UnsupportedLanguage, InvalidArgument, BadRequest: what a session, where there is one, cannot do."""
    if job.session is None:
        return
    check_name(job.session, "session name")
    if job.language.session is None:
        raise UnsupportedLanguage(f"{job.language.name} has no sessions yet", remedy="use python or bash for that")
    if job.language.session == "live":
        for what, given in (("environment", job.environment), ("stdin", job.stdin), ("working_dir", job.working_dir)):
            if given:
                raise BadRequest(
                    f"{what} for an execution in a {job.language.name} session",
                    remedy="set it in the code: os.environ, a variable, os.chdir",
                )


def check_begun(name: str, language: Language, begun: Collection[str]) -> None:
    """Raises SessionNotFound: it is to be ended, and has not begun. A saved session is a file, which may be there."""
    if language.session == "live" and name not in begun:
        known = f"there are {', '.join(sorted(begun))}" if begun else "there are none"
        raise SessionNotFound(repr(name[:80]), remedy=f"{known} in this vm")


def told_to_be_back(outcome: Outcome, back: WentBack) -> Outcome:
    """The outcome of an execution after which the vm was put back, with what that means in words."""
    if not outcome.lost_session:
        return outcome
    words = [outcome.error or "the session's process ended", "files and variables are as before"]
    if back.lost:
        words[1] = f"files are as before; variables are gone in {', '.join(back.lost)}"
    if gone := (*outcome.gone, *back.gone):
        words.append(f"also ended: {', '.join(gone)}")
    return replace(outcome, error="; ".join(words))


async def rebuilt(vm: "AsyncVm", history: History, rollback: Rollback, target: Point) -> Rollback:
    """Make the sessions that a point had, and of which nothing is left, by running again what they ran."""
    names = sorted(set((target.state or {}).get("sessions", {})) & set(rollback.lost))
    found = []
    for name in names:
        many, differences = 0, list[str]()
        for old in history.of_session(vm.id, name, target.id):
            new = await vm.execute(old.language, old.code, session=name, rollback_on_failure=False)
            differences += _differences(old, new)
            many += 1
        found.append(Rebuilt(session=name, executions=many, differences=tuple(differences)))
    if names:
        await vm.put_files_back(target)
    return replace(rollback, lost=tuple(sorted(set(rollback.lost) - set(names))), rebuilt=tuple(found))


def _differences(old: Execution, new: Execution) -> list[str]:
    """What two runs of the same code do not have in common; output that is no longer kept is not compared."""
    found = []
    if (old.ended, old.exit_code) != (new.ended, new.exit_code):
        found.append(f"{old.id} ended with {old.ended} {old.exit_code}, now with {new.ended} {new.exit_code}")
    for name in () if old.output_dropped else ("stdout", "stderr", "result"):
        if getattr(old, name) != getattr(new, name):
            found.append(f"{old.id} has another {name} now: see {new.id}")
    return found
