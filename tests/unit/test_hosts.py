"""Why a host makes no vm: each step that may be refused has its cause and its remedy."""

import errno

import pytest

from rewindbox.backends.namespace import hosts

APPARMOR, CLONE, MOST = (
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/user/max_user_namespaces",
)


@pytest.mark.parametrize(
    ("step", "number", "kernel", "cause", "remedy"),
    [
        ("user namespace", errno.EACCES, {APPARMOR: "1"}, "AppArmor", "apparmor_restrict_unprivileged_userns=0"),
        ("private mounts", errno.EACCES, {APPARMOR: "1"}, "AppArmor", "apparmor_restrict_unprivileged_userns=0"),
        ("user namespace", errno.EPERM, {APPARMOR: "0", CLONE: "0"}, "switched off", "unprivileged_userns_clone=1"),
        ("user namespace", errno.ENOSPC, {MOST: "8"}, "no more", "max_user_namespaces=65536"),
        ("namespaces", errno.EPERM, {MOST: "0"}, "no more", "max_user_namespaces=65536"),
        ("id map", errno.EPERM, {}, "seccomp profile of a container", "--security-opt seccomp=unconfined"),
        ("overlay", errno.EINVAL, {}, "Linux 5.11", "REWINDBOX_STORE"),
        ("proc", errno.EPERM, {}, "a plain container", "systempaths=unconfined"),
        ("bounds of the user namespace", errno.EROFS, {}, "/proc/sys/user", "apparmor=unconfined"),
        ("private mounts", errno.EPERM, {APPARMOR: "1"}, "the kernel said no", "rewindbox doctor"),
        ("loopback", errno.EPERM, {}, "the kernel said no", "rewindbox doctor"),
    ],
)
def test_a_refused_step(monkeypatch, step, number, kernel, cause, remedy):
    """The step and the kernel's word stand in the text, and beside them why, and what to do."""
    monkeypatch.setattr(hosts, "read_setting", kernel.get)
    error = hosts.explain({"step": step, "errno": number, "text": f"{step}: its word"})
    assert f"({step}: its word)" in str(error) and cause in str(error)
    assert error.remedy is not None and remedy in error.remedy
