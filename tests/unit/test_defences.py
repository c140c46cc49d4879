"""What is said of barriers and limits, from what the kernel says of a dressed thread."""

import pytest

from rewindbox.backends.namespace import defences, landlock
from rewindbox.backends.namespace.groups import WEIGHT, Nowhere
from rewindbox.limits import BARRIERS, REQUIREMENTS, Limits

DRESSED = {
    "Uid": "1000\t1000\t1000\t1000",
    "Gid": "1000\t1000\t1000\t1000",
    "CapBnd": "0000000000000000",
    "NoNewPrivs": "1",
    "Seccomp": "2",
}


class Weighing(Nowhere):
    """A group that all weighs in."""

    def __init__(self) -> None:
        super().__init__("")
        self.version = 2

    def counts(self, controller: str) -> bool:
        return controller == WEIGHT


@pytest.mark.parametrize(
    ("change", "level", "fallen"),
    [
        ({}, 7, set()),
        ({}, 1, {"landlock"}),
        ({}, 0, {"landlock"}),
        ({"Uid": "1000 0 1000 1000"}, 7, {"kernel_ids"}),
        ({"Gid": "0 0 0 0"}, 7, {"kernel_ids"}),
        ({"CapBnd": "0000000000000400"}, 7, {"capabilities"}),
        ({"NoNewPrivs": "0"}, 7, {"no_new_privs"}),
        ({"Seccomp": "0"}, 7, {"seccomp"}),
    ],
)
def test_barriers_stand_or_not(change, level, fallen):
    """Each barrier is judged by what was seen of it, and all have a text."""
    dumps = defences.no_core_dumps(b"core", 0)
    found = defences.barriers({**DRESSED, **change}, level) | dumps | defences.weight(Weighing())
    assert tuple(found) == BARRIERS
    assert {name for name, (stands, _) in found.items() if not stands} == fallen
    assert all(text for _, text in found.values())


@pytest.mark.parametrize(
    ("pattern", "limit_bytes", "stands"),
    [
        *((b"core\n", 0, True), (b"/var/crash/%p", 0, True), (b"\n", 0, True)),
        *((b"|/usr/share/apport/apport %p", 1, True), (b"|/usr/share/apport/apport %p", 0, False)),
        *((b"@/run/dumps", 0, False), (b"@@/run/dumps", 1, False)),
    ],
)
def test_core_dumps(pattern, limit_bytes, stands):
    """A file is kept from being by any short limit, a program of the host by a limit of 1 only, a socket by none."""
    assert defences.no_core_dumps(pattern, limit_bytes)["no_core_dumps"][0] is stands


def test_every_limit_is_told():
    """Each field of Limits has its word; without control groups memory is watched, and it is said why."""
    found = defences.limits(Nowhere("they are for root"))
    assert set(found) == set(Limits().as_dict())
    assert found["memory_mib"][0] == "watched" and "they are for root" in found["memory_mib"][1]


def test_what_is_required_and_missing_is_named():
    """Only what does not hold is named; what holds is not."""
    there = {
        "barriers": defences.barriers(DRESSED, 0)
        | defences.no_core_dumps(b"@/run/dumps", 0)
        | defences.weight(Nowhere("no groups")),
        "limits": defences.limits(Nowhere("no groups")),
    }
    assert defences.unmet(["seccomp", "processes=hard"], there) == []
    missing = defences.unmet(["landlock", "memory_mib=hard", "file_mib=hard", "no_core_dumps", "cpu_weight"], there)
    assert [text.split()[0].rstrip(":") for text in missing] == [
        "landlock",
        "memory_mib",
        "no_core_dumps",
        "cpu_weight",
    ]
    for name in REQUIREMENTS:
        defences.unmet([name], there)  # none is unknown


@pytest.mark.parametrize(("level", "bits"), [(1, 13), (2, 14), (3, 15), (4, 15), (5, 16), (7, 16), (99, 16)], ids=str)
def test_rights_of_each_level(level, bits):
    """A kernel is asked for the rights that its level knows, and for no other: it would refuse all."""
    assert landlock.rights(level) == (1 << bits) - 1
