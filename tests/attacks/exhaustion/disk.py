"""Programs that want the disk, its inodes, and a file beyond the largest; compilers that do."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from exhaustion.greedy import FULL, Greedy

_NAMELESS = """
import ctypes, os, socket, time
libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p
here, there = socket.socketpair()
kept = []
for number in range(10):
    f = open(f"/tmp/{{number}}", "w+b", 0); os.unlink(f"/tmp/{{number}}")
    for _ in range(10): f.write(b"x" * (1 << 20))
    {hold}
time.sleep(1)"""
_LITTLE = {"disk_mib": 20, "wall_s": 50}

DISK = (
    Greedy(
        id="many-files-without-a-name",
        wants="the disk, in files that were deleted and are held open",
        code=_NAMELESS.format(hold="kept.append(f)"),
        limits=_LITTLE,
        ended=("killed",),
        more={"wall_s": 50},
    ),
    Greedy(
        id="files-without-a-name-in-a-socket",
        wants="the disk, in such files that no process has open: they lie in a socket",
        code=_NAMELESS.format(hold="socket.send_fds(here, [b'x'], [f.fileno()]); f.close()"),
        limits=_LITTLE,
        ended=("killed",),
        more={"wall_s": 50},
    ),
    Greedy(
        id="files-without-a-name-in-memory",
        wants="the disk, in such files of which a process has a page mapped, and nothing else",
        code=_NAMELESS.format(
            hold="libc.mmap(None, ctypes.c_size_t(4096), 1, 1, f.fileno(), ctypes.c_long(0)); f.close()"
        ),
        limits=_LITTLE,
        ended=("killed",),
        more={"wall_s": 50},
    ),
    Greedy(
        id="disk-flood",
        wants="the whole disk",
        code="f = open('flood', 'wb', 0)\nwhile True: f.write(b'x' * (1 << 20))",
        limits={"disk_mib": 100, "wall_s": 50},
        ended=("killed",),
        more={"disk_mib": 8192, "wall_s": 50},
        past=("bytes on disk", 100 << 20),
    ),
    Greedy(
        id="disk-flood-without-a-name",
        wants="the disk, in a file that was deleted at once",
        code="import os\nf = open('/tmp/flood', 'wb', 0); os.unlink('/tmp/flood')\nn = 0\nwhile n < 300: f.write(b'x' * (1 << 20)); n += 1",
        limits={"file_mib": 100, "wall_s": 50},
        ended=("exit", "signal"),
        more={"file_mib": 1000, "wall_s": 50},
    ),
    Greedy(
        id="many-files",
        wants="every inode",
        code="import os\nn = 0\nwhile True: os.mknod(f'/tmp/{n}'); n += 1",
        limits={"inodes": 3000, "wall_s": 50},
        ended=("killed",),
        more={"wall_s": 50},
        past=("files", 3000),
    ),
    Greedy(
        id="one-big-file",
        wants="a file beyond the largest",
        code="import errno, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nf = open('big', 'wb', 0)\ntry:\n    for _ in range(100): f.write(b'x' * (1 << 20))\nexcept OSError as error: assert error.errno == errno.EFBIG\ntry: f.truncate(200 << 20)\nexcept OSError as error: assert error.errno == errno.EFBIG\nprint('full', flush=True); signal.pause()",
        limits={"file_mib": 20, "wall_s": 50},
        ended=FULL,
        more={"file_mib": 500, "wall_s": 50},
        past=("bytes in a file", 20 << 20),
    ),
    Greedy(
        id="sparse",
        wants="nothing, in a file that looks as if it took all",
        code="open('sparse', 'wb').truncate(1 << 40)\nassert __import__('os').stat('sparse').st_blocks == 0",
        limits={"file_mib": 1 << 21, "disk_mib": 10, "wall_s": 50},
        ended=("exit",),
        unshown="it takes nothing, and must not be ended",
    ),
)

COMPILERS = (
    Greedy(
        id="rust-macros",
        wants="a compiler that never ends",
        code="macro_rules! m { ($($x:tt)*) => { m!($($x)* $($x)*) } }\nfn main() { m!(a b c d e f g h); }",
        language="rust",
        limits={"memory_mib": 400, "wall_s": 6, "cpu_s": 30},
        ended=("memory", "timeout", "exit", "signal"),
        in_session=False,
        unshown="the compiler has a bound of its own for this",
    ),
    Greedy(
        id="includes-without-end",
        wants="a compiler that reads without end",
        code="command -v gcc > /dev/null || exit 0\necho '#include \"/dev/zero\"' > a.c\nexec gcc -c a.c",
        language="bash",
        limits={"memory_mib": 300, "wall_s": 6, "cpu_s": 30},
        ended=("memory", "timeout", "exit"),
        in_session=False,
        more={"memory_mib": 1500, "wall_s": 50},
        past=("resident bytes", 300 << 20),
    ),
    Greedy(
        id="an-object-of-gigabytes",
        wants="the disk, by a compiler",
        code="command -v gcc > /dev/null || exit 0\necho 'int a[1 << 29] = {1};' > a.c\nexec gcc -c a.c",
        language="bash",
        limits={"memory_mib": 1000, "file_mib": 50, "wall_s": 20, "cpu_s": 30},
        ended=("exit", "signal", "memory", "timeout"),
        in_session=False,
        more={"memory_mib": 4000, "wall_s": 50},
        past=("bytes in a file", 50 << 20),
    ),
)
