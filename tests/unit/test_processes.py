"""Who is there, as the supervisor sees it."""

import os
import threading

from rewindbox.backends.namespace.processes import processes


def test_two_who_look_at_once_both_see_everybody():
    """A listing in another thread, as for what is counted on disk, takes nobody out of that by which all are ended."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    over = threading.Event()

    def look_all_the_time() -> None:
        while not over.is_set():
            processes(proc)

    others = [threading.Thread(target=look_all_the_time) for _ in range(2)]
    try:
        for other in others:
            other.start()
        missed = [number for number in range(300) if os.getpid() not in processes(proc)]
    finally:
        over.set()
        for other in others:
            other.join()
        os.close(proc)
    assert not missed
