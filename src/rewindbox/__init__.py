"""Rewindbox runs what a model wrote in an isolated vm, remembers every execution, and can undo any of them.

Importing does nothing and loads nothing: each name is loaded when it is first used, so that the command line
and the small process that starts vms pay only for what they need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewindbox.door import Rewindbox, Session, Vm
    from rewindbox.engine import AsyncRewindbox
    from rewindbox.errors import RewindboxError
    from rewindbox.execution import Execution
    from rewindbox.history import HistoryPage
    from rewindbox.intent import detect_execution_intent
    from rewindbox.limits import Limits
    from rewindbox.models import (
        CodeBlock,
        ExecutionIntent,
        HistoryConfig,
        ParseExecuteRequest,
        ParseExecuteResponse,
        VmExecutionConfig,
    )
    from rewindbox.points import Point, Rollback, Snapshot
    from rewindbox.preview import Preview
    from rewindbox.session import AsyncSession
    from rewindbox.stdin import Stdin
    from rewindbox.vm import AsyncVm

__version__ = "0.1.0"

_HOMES = {
    "AsyncRewindbox": "engine",
    "AsyncSession": "session",
    "AsyncVm": "vm",
    "CodeBlock": "models",
    "Execution": "execution",
    "ExecutionIntent": "models",
    "HistoryConfig": "models",
    "HistoryPage": "history",
    "Limits": "limits",
    "ParseExecuteRequest": "models",
    "ParseExecuteResponse": "models",
    "Point": "points",
    "Preview": "preview",
    "Rewindbox": "door",
    "RewindboxError": "errors",
    "Rollback": "points",
    "Session": "door",
    "Snapshot": "points",
    "Stdin": "stdin",
    "Vm": "door",
    "VmExecutionConfig": "models",
    "detect_execution_intent": "intent",
}

__all__ = [
    "AsyncRewindbox",
    "AsyncSession",
    "AsyncVm",
    "CodeBlock",
    "Execution",
    "ExecutionIntent",
    "HistoryConfig",
    "HistoryPage",
    "Limits",
    "ParseExecuteRequest",
    "ParseExecuteResponse",
    "Point",
    "Preview",
    "Rewindbox",
    "RewindboxError",
    "Rollback",
    "Session",
    "Snapshot",
    "Stdin",
    "Vm",
    "VmExecutionConfig",
    "__version__",
    "detect_execution_intent",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rewindbox' has no attribute {name!r}")
    return getattr(import_module(f"rewindbox.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
