"""Files of every kind, what can be done to them, and how to describe them: programs that are run inside."""
# ruff: noqa: E501  they stand here as they are

import json

from conftest import out

DESCRIBE = r"""
import hashlib, json, os, stat, sys
first, tree, waiting = {}, {}, [sys.argv[1] if len(sys.argv) > 1 else "/home/agent"]
while waiting:
    path = waiting.pop()
    status = os.lstat(path)
    kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
    entry = [kind, mode, status.st_mtime_ns]
    for name in sorted(os.listxattr(path, follow_symlinks=False)) if os.access(path, os.R_OK, follow_symlinks=False) else []:
        entry.append([name, os.getxattr(path, name, follow_symlinks=False).hex()])
    if kind == stat.S_IFREG:
        entry += [status.st_size, first.setdefault(status.st_ino, path), status.st_blocks * 512 < status.st_size]
        if os.access(path, os.R_OK):
            with open(path, "rb") as file:
                entry.append(hashlib.file_digest(file, "sha1").hexdigest())
    elif kind == stat.S_IFLNK:
        entry.append(os.readlink(path))
    elif kind == stat.S_IFDIR and os.access(path, os.R_OK | os.X_OK):
        names = sorted(os.listdir(path))
        entry.append(names)
        waiting += [os.path.join(path, name) for name in reversed(names)]
    tree[path] = entry
print(json.dumps(tree, sort_keys=True))
"""
"""Everything about the files below home that going back must bring back."""

SPECIMENS = r"""
import errno, os, socket, stat
os.makedirs("dir/inner/deep"); os.makedirs("empty")
for name, text in (("file", "content"), ("dir/inner/deep/leaf", "leaf"), ("nothing", "")):
    with open(name, "w") as f: f.write(text)
with open("script", "w") as f: f.write("#!/bin/sh\n")
os.chmod("script", 0o4711)
os.symlink("file", "link"); os.symlink("/nowhere/\udcff", "dangling"); os.symlink("dir", "dirlink")
os.link("file", "hard"); os.link("file", "dir/harder")
with open("sparse", "wb") as f:
    f.seek(50 << 20); f.write(b"end")
with open("holes", "wb") as f:
    f.write(b"a" * 4096); f.truncate(10 << 20); f.seek(5 << 20); f.write(b"b" * 4096)
os.mkfifo("pipe", 0o640)
socket.socket(socket.AF_UNIX).bind("socket")
open("n" * 255, "w").close(); open(b"\xff\xfe\n\x01", "w").close(); os.mkdir("ü" * 127)
os.setxattr("file", "user.mark", b"\0\xff"); os.setxattr("dir", "user.mark", b"d")
try: os.setxattr("dir", "user.overlay.opaque", b"y")
except OSError as error:
    if error.errno != errno.EOPNOTSUPP: raise  # an overlay has kept its own marks from others until Linux 6.7
os.mkdir("closed"); open("closed/in", "w").write("in"); open("shut", "w").write("shut")
os.chmod("closed/in", 0); os.chmod("closed", 0); os.chmod("shut", 0)
os.mkdir("sticky"); os.chmod("sticky", 0o3777)
for path in ("file", "link", "dir", "pipe", "script"):
    os.utime(path, ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321), follow_symlinks=False)
"""

DAMAGE = r"""
set -e
rm -f file link hard nothing sparse pipe
echo other > file; rm -rf dir; mkdir dir; echo new > dir/new
mkdir link; echo x > empty_no_more; rmdir empty; echo was-a-folder > empty
chmod 700 closed; chmod 600 closed/in shut; echo more >> shut; echo more >> closed/in
echo x >> script; setfattr -n user.mark -v other dir 2>/dev/null || true
rm -- n*; mv sticky moved; touch -d '2001-01-01' holes
"""

FILLERS = {
    "small": "",
    "many": "mkdir -p many; cd many; for i in $(seq 700); do echo $i > $i; done",
    "big": "head -c 20000000 /dev/urandom > big",
}
"""What else is there: how a backend keeps a point may depend on how much there is."""


async def describe(vm):
    """The vm's home, as code sees it."""
    return json.loads(await out(vm, DESCRIBE, "python"))
