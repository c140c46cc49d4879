"""Source of a filter -> its instructions, as the kernel takes them (classic BPF). It knows nothing of system calls.

Only the standard library, and little of it: the tiny process that starts vms imports this.
"""

import struct

Line = tuple[str, int, str, str]
"""One line of source: operation, constant, where to go if true, where if false ("" is the following line).
A line without an operation is a label; its name stands in the third place."""
_OPCODES = {"load": 0x20, "and": 0x54, "equal": 0x15, "at least": 0x35, "goto": 0x05, "return": 0x06}
_JUMPS = ("equal", "at least")
_LONGEST_JUMP = 255


def assemble(lines: list[Line]) -> bytes:
    """Source -> instructions. A condition reaches 255 of them; to go further it gets two plain jumps."""
    far: set[int] = set()
    while True:
        places, labels = _layout(lines, far)
        too_far = {
            index
            for index, (op, _, yes, no) in enumerate(lines)
            if op in _JUMPS and any(labels[to] - places[index] - 1 > _LONGEST_JUMP for to in (yes, no) if to)
        }
        if too_far <= far:
            break
        far |= too_far
    return b"".join(_encode(line, places[i], labels, i in far) for i, line in enumerate(lines))


def _layout(lines: list[Line], far: set[int]) -> tuple[list[int], dict[str, int]]:
    """Where each line and each label comes to lie, in instructions."""
    places: list[int] = []
    labels: dict[str, int] = {}
    at = 0
    for index, (op, _, name, _) in enumerate(lines):
        places.append(at)
        if not op:
            labels[name] = at
        at += 3 if index in far else 1 if op else 0
    return places, labels


def _encode(line: Line, at: int, labels: dict[str, int], far: bool) -> bytes:
    """One line as bytes. `at` is its place; a far condition is followed by its two plain jumps."""
    op, constant, yes, no = line
    if not op:
        return b""
    if far:
        jumps = [labels[to] - at - 2 - slot if to else 1 - slot for slot, to in enumerate((yes, no))]
        return _instruction(op, constant, 0, 1) + b"".join(_instruction("goto", jump) for jump in jumps)
    ahead = [labels[to] - at - 1 if to else 0 for to in (yes, no)]
    return _instruction("goto", ahead[0]) if op == "goto" else _instruction(op, constant, *ahead)


def _instruction(op: str, constant: int, yes: int = 0, no: int = 0) -> bytes:
    """One `struct sock_filter`. A negative jump does not fit and raises: BPF knows no way back."""
    return struct.pack("HBBI", _OPCODES[op], yes, no, constant)
