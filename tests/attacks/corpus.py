"""What only tests try: programs that want to outlive their execution. The attacks are those of `rewindbox.attacks`."""
# ruff: noqa: E501  programs that are run inside stand here as they are

LEFT_BEHIND = {
    "setsid": "setsid sleep 1000 & setsid -f sleep 1000",
    "double-fork": "((sleep 1000 &) &) ; (setsid bash -c '(sleep 1000 &)' &)",
    "nohup-and-disown": "nohup sleep 1000 >/dev/null 2>&1 & disown -a",
    "stopped": "sleep 1000 & kill -STOP $!; setsid bash -c 'kill -STOP $$' &",
    "ignores-every-signal": "setsid bash -c 'trap \"\" $(seq 1 64 | grep -v -e 9 -e 19 -e 32 -e 33); while :; do sleep 1000; done' &",
    "forks-for-ever": """python3 - <<'END' &
import os, signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(6):
    if os.fork() == 0: break
os.setsid()
while True:
    if os.fork(): os._exit(0)
END
sleep 0.2""",
    "stops-every-next-pid": """python3 - <<'END' &
import os, signal
os.setsid()
while True:
    me = os.fork()
    if me == 0: os._exit(0)
    os.wait()
    for pid in range(me + 1, me + 40):
        try: os.kill(pid, signal.SIGSTOP)
        except OSError: pass
END
sleep 0.2""",
    "zombies": "python3 -c 'import os\nfor _ in range(100):\n    if os.fork() == 0: os._exit(0)\nos.fork() or __import__(\"time\").sleep(1000)'",
    "threads": "python3 -c 'import threading, time\nfor _ in range(50): threading.Thread(target=time.sleep, args=(1000,)).start()' &\nsleep 0.2",
    "holds-the-output-open": "(exec sleep 1000) & exec 5>&1; sleep 1000 >&5 2>&1 &",
    "hundreds": "for i in $(seq 150); do sleep 1000 & done",
    "undumpable": "python3 -c 'import ctypes, os, time\nos.fork(); ctypes.CDLL(None).prctl(4, 0); time.sleep(1000)' &\nsleep 0.1",
    "first-thread-ended": """python3 - <<'END' &
import ctypes, platform, os, threading, time
os.setsid(); libc = ctypes.CDLL(None); libc.prctl(4, 0)
threading.Thread(target=time.sleep, args=(1000,)).start()
libc.syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
END
sleep 0.2""",
    "sibling-of-its-parent": """exec python3 - <<'END'
import ctypes, platform, time
number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
if ctypes.CDLL(None).syscall(number, 0x8000 | 17, 0, 0, 0, 0) == 0: time.sleep(1000)
END""",
    "vfork": 'python3 -c \'import subprocess\nfor _ in range(9): subprocess.Popen(["sleep", "1000"], start_new_session=True)\'',
}
"""Programs that try to outlive their execution."""
