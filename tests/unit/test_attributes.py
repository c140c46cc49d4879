"""Name by name: which extended attributes of a file a point carries, and which make that it is no copy."""

import contextlib
import errno
import os
import struct

import pytest

from rewindbox.backends.namespace import attributes, trees

ANY_ID = 0xFFFFFFFF
ENTRIES = ((1, 6, ANY_ID), (2, 4, 54321), (4, 4, ANY_ID), (16, 4, ANY_ID), (32, 0, ANY_ID))
OF_ANYBODY = ("user.mark", *(f"system.posix_acl_{kind}" for kind in ("access", "default")))
"""What whoever runs this can set on any disk that a store may lie on."""
ACCESS_LIST = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ENTRIES)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)

FATES = {
    "user.mark": "carried",
    "user.": "carried",
    "user.overlay.opaque": "carried",
    "user.overlay.overlay.opaque": "carried",
    "user.security.capability": "carried",
    "system.posix_acl_access": "carried",
    "system.posix_acl_default": "carried",
    "security.selinux": "carried",
    "security.apparmor": "carried",
    "security.SMACK64": "carried",
    "security.SMACK64EXEC": "carried",
    "security.SMACK64MMAP": "carried",
    "security.SMACK64TRANSMUTE": "carried",
    "security.ima": "made anew",
    "security.evm": "made anew",
    "security.capability": "refused",
    "security.SMACK64IPIN": "refused",
    "security.SMACK64IPOUT": "refused",
    "security.selinux.old": "refused",
    "security.selinu": "refused",
    "Security.selinux": "refused",
    "security.": "refused",
    "security.landlock": "refused",
    "trusted.overlay.opaque": "refused",
    "trusted.overlay.redirect": "refused",
    "trusted.mark": "refused",
    "system.posix_acl_access.old": "refused",
    "system.nfs4_acl": "refused",
    "system.richacl": "refused",
    "system.cifs_acl": "refused",
    "system.": "refused",
    "os2.mark": "refused",
    "btrfs.compression": "refused",
    "users.mark": "refused",
    "user": "refused",
    "": "refused",
}
VALUES = {"system.posix_acl_access": ACCESS_LIST, "system.posix_acl_default": ACCESS_LIST}
VALUES["security.capability"] = CAPABILITY


@pytest.mark.parametrize(("name", "fate"), FATES.items())
def test_every_name_has_a_fate(name, fate):
    """Each name is carried, made anew by the kernel, or refused; whoever is not listed is refused."""
    assert attributes.fate(name) == fate


def test_all_listed_names_are_tried():
    """No name is in the tables that is not in the table above."""
    listed = {*attributes.CARRIED, *attributes.MADE_ANEW}
    assert listed == {name for name, fate in FATES.items() if fate != "refused" and not name.startswith("user.")}


@pytest.mark.parametrize("name", [name for name, fate in FATES.items() if fate != "made anew"])
def test_copies_have_what_is_carried(tmp_path, name):
    """A copy has every attribute that is carried, byte by byte; of a tree with a refused one there is none.

    Those that whoever runs this may not set, or this disk does not have, code could not set either.
    """
    source, target = tmp_path / "source", tmp_path / "copy"
    (source / "there").mkdir(parents=True)
    (source / "file").write_text("x")
    bearer = "there" if name.endswith("default") else "file"
    value = VALUES.get(name, b"\0value")
    try:
        os.setxattr(source / bearer, name, value)
    except OSError as error:
        assert error.errno in (errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.ERANGE)
        assert name not in OF_ANYBODY
        return
    found = trees.signature(str(source), 100, 1 << 20)
    with pytest.raises(trees.Uncopied, match=name) if FATES[name] == "refused" else contextlib.nullcontext():
        trees.copy(str(source), str(target), found)
        assert os.getxattr(target / bearer, name) == os.getxattr(source / bearer, name)
