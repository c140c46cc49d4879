"""What becomes of whole answers, written as models write them: R what runs, W what is written to a file."""

from dataclasses import replace

from rewindbox.config import Settings
from rewindbox.extraction import blocks
from rewindbox.policy import decide

SETTINGS = replace(Settings(), code_validation=False)
PROGRAMS = dict.fromkeys(SETTINGS.languages, "/usr/bin/x")


def fence(info, code):
    return f"```{info}\n{code}\n```\n"


def becomes(text):
    """`R language code` and `W path`, in order; what is left alone is not there."""
    found = []
    for decision in decide(blocks(text), SETTINGS, PROGRAMS, 0.0):
        if decision.path is not None:
            found.append(f"W {decision.path}")
        elif decision.skipped is None:
            found.append(f"R {decision.block.language} {decision.code.strip()}")
    return found


CALC, RUN = fence("python", "print(1)"), fence("bash", "python3 calc.py")
WRITTEN = ["W calc.py", "R bash python3 calc.py"]
