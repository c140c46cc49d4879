"""What a figure was measured on: the machine, in words, and nothing that tells whose it is."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime


def header() -> dict[str, str]:
    """Names and values for the top of a report."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{_memory_gib():.0f} GiB",
        "huge pages": _huge_pages(),
        "python": platform.python_version(),
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "user": "root" if os.getuid() == 0 else "ordinary",
    }


def version_of(program: str) -> str:
    """The first line of `program --version`."""
    if shutil.which(program) is None:
        return "not installed"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _huge_pages() -> str:
    """Whether big arrays may have them; a fork of such an array costs a tenth."""
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="ascii") as file:
            return next(word.strip("[]") for word in file.read().split() if word.startswith("["))
    except (OSError, StopIteration):
        return "none"
