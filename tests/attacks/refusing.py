"""A host that refuses a system call, as the filter of a container does: for the launcher and all that it starts.

A filter of the kernel's own: nothing in the product knows of it.
"""

from rewindbox.backends.namespace import starting

OPENAT2 = 437

_FILTER = """
import ctypes, struct
libc = ctypes.CDLL(None)
code = ctypes.create_string_buffer(
    struct.pack("HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, {number}, 6, 0, 0, 0x50000 | {error}, 6, 0, 0, 0x7FFF0000))
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0): raise SystemExit("no filter")
if libc.syscall(ctypes.c_long({number}), 0, 0, 0, 0) != -1: raise SystemExit("it is not refused")
"""
"""Load the call's number; equal: refuse with that error; else allow. Then make sure."""


def boot(number: int, error: int) -> str:
    """Boot code of a launcher on whose host the call `number` (the same on every machine) fails with `error`."""
    return _FILTER.format(number=number, error=error) + starting._BOOT
