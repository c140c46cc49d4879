"""`rewindbox doctor`, on this host and on one that forbids vms."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rewindbox
from conftest import PATIENCE_S, until
from rewindbox import siege
from rewindbox.attacks import CORPUS, GROUPS
from rewindbox.attacks.attack import WORD
from rewindbox.backends.namespace.orders import find_program
from rewindbox.config import Settings
from rewindbox.languages import LANGUAGES
from rewindbox.limits import Limits
from rewindbox.terminal import Stream

COMMAND = (sys.executable, "-W", "error", "-m", "rewindbox")


def doctor(store: Path, *words: str, before: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(Path(rewindbox.__file__).parents[1]),
        "REWINDBOX_STORE": str(store),
        **more,
    }
    return subprocess.run(
        [*before, *COMMAND, "doctor", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What it says of this host."""
    folder = tmp_path_factory.mktemp("doctor")
    done = doctor(folder / "store", "--json")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert list(folder.iterdir()) == [], "it leaves nothing behind"
    return json.loads(done.stdout)


def finding(found: dict, name: str) -> dict:
    return next(entry for entry in found["findings"] if entry["name"] == name)


def test_it_works_here(found: dict) -> None:
    """A host on which vms can be made is said to be one."""
    assert found["ok"] is True
    for name in (
        "host",
        "store",
        "search",
        "vm",
        "rollback",
        "sessions",
        "seccomp",
        "no_new_privs",
        "capabilities",
        "namespaces",
    ):
        assert finding(found, name)["verdict"] == "good"


def test_code_is_never_root_outside(found: dict) -> None:
    """The kernel ids of a program in a vm, read by the host, are not 0."""
    ids = finding(found, "kernel ids")["text"].split(" outside")[0].split(", ")
    assert "0" not in ids and all(number.isdigit() for number in ids)


def test_every_limit_is_reported(found: dict) -> None:
    """For each limit: hard, watched or absent, and by what."""
    assert {report["limit"] for report in found["limits"]} == set(Limits().as_dict())
    assert {report["enforcement"] for report in found["limits"]} <= {"hard", "watched", "absent"}
    assert all(report["by"] for report in found["limits"])


def test_the_second_wall_is_reported(found: dict) -> None:
    """Landlock is never absent without a word: its level and what it stops, or that it is not there."""
    entry = finding(found, "landlock")
    assert entry["text"].startswith("level ") if entry["verdict"] == "good" else entry["verdict"] == "missing"


def test_the_weight_is_reported(found: dict) -> None:
    """Whether code can take the processors by making sessions is told, and is no reason not to start."""
    entry = finding(found, "cpu_weight")
    assert ("control group v" in entry["text"]) == (entry["verdict"] == "good")
    assert entry["verdict"] in ("good", "missing")


def test_hard_means_that_the_kernel_refuses(found: dict) -> None:
    """Memory is said to be hard where a control group holds it, and is watched where none does."""
    (memory,) = [report for report in found["limits"] if report["limit"] == "memory_mib"]
    assert ("control group v" in memory["by"]) == (memory["enforcement"] == "hard")
    assert os.getuid() == 0 or memory["enforcement"] == "watched" or "v2" in memory["by"]


def test_what_is_required_and_cannot_hold_is_named(tmp_path: Path) -> None:
    """Before anything runs: exit code 4, the requirement by its name, and what to do."""
    done = doctor(tmp_path / "store", "--json", REWINDBOX_REQUIRE="seccomp,output_bytes=hard")
    value = json.loads(done.stdout)
    assert (done.returncode, value["ok"]) == (4, False)
    assert "output_bytes=hard" in finding(value, "require")["text"]
    assert {report["limit"] for report in value["limits"]} == set(Limits().as_dict())


@pytest.mark.parametrize("name", Settings().allowed_languages)
def test_every_language_is_tried(found: dict, name: str) -> None:
    """A toolchain that is there has run a program; of one that is not, the package is named."""
    entry = finding(found, name)
    if find_program(LANGUAGES[name].program):
        assert entry["verdict"] == "good" and "hello" in entry["text"]
    else:
        assert entry["verdict"] == "missing" and "apt install" in entry["remedy"]


def test_configuration_does_not_mislead_it(tmp_path: Path) -> None:
    """Limits and languages that are configured say nothing about the host; what is not allowed is noted."""
    done = doctor(tmp_path / "store", REWINDBOX_ALLOWED_LANGUAGES="bash", REWINDBOX_LIMITS_WALL_S="0.001")
    assert done.returncode == 0
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert next(line for line in lines if line[1] == "python")[3].endswith("not in allowed_languages")


def test_a_host_that_forbids_vms(tmp_path: Path) -> None:
    """Where the kernel allows no namespaces: exit code 4, with the cause and what to do about it."""
    forbidden = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    before = ("unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", forbidden, "sh")
    has = shutil.which("unshare") is not None
    if not has or subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs util-linux's unshare, and a namespace of its own")
    done = doctor(tmp_path / "store", "--json", before=before)
    value = json.loads(done.stdout)
    assert (done.returncode, done.stderr, value["ok"]) == (4, "", False)
    last = value["findings"][-1]
    assert last["verdict"] == "bad" and last["remedy"]


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    """A place where nobody may write is named, with another way."""
    done = doctor(Path("/proc/nowhere/store"))
    assert done.returncode == 4
    assert "REWINDBOX_STORE" in done.stdout


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """What the attacks on this host come to."""
    folder = tmp_path_factory.mktemp("siege")
    done = doctor(folder / "store", "--attack")
    assert list(folder.iterdir()) == [], "it leaves nothing behind"
    return done


@pytest.mark.alone
def test_attacks_on_this_host_are_held(attacked: subprocess.CompletedProcess[str]) -> None:
    """Every attack of the corpus is tried, and a line says that it was held and where."""
    assert (attacked.returncode, attacked.stderr) == (0, ""), attacked
    lines = [line.split("\t") for line in attacked.stdout.splitlines()]
    assert [(kind, group, name) for kind, group, name, *_ in lines] == [
        ("attack", group, attack.id) for group, attacks in GROUPS.items() for attack in attacks
    ]
    assert {line[3] for line in lines} == {"held"}
    assert {line[5] for line in lines} == {"session", "execution and session"}


@pytest.mark.alone  # an attack that had no time to be held is told as one that was not
def test_a_broken_defence_is_found(tmp_path: Path) -> None:
    """Where the filter of system calls is missing: BROKE, with what the attack got and the host saw; exit code 4."""
    missing = ["seccomp", "bounds of the user namespace"]  # which is a second wall behind it
    switch = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from defences import without\n"
        f"with without({missing}):\n from rewindbox import cli\n sys.exit(cli.run(sys.argv[1:]))"
    )
    tests = str(Path(__file__).parents[1] / "attacks")
    command = [sys.executable, "-c", switch, tests, "--store", str(tmp_path / "store"), "doctor", "--attack", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(rewindbox.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=False)
    value = json.loads(done.stdout)
    assert (done.returncode, done.stderr, value["ok"]) == (4, "", False)
    broke = {entry["name"]: entry["text"] for entry in value["attacks"] if not entry["held"]}
    alone = {attack.id for attack in CORPUS if attack.held_by == ("seccomp",)}
    by_others = [attack for attack in CORPUS if not {*missing, *WORD} & {*attack.held_by}]
    others = {attack.id for attack in by_others if not attack.unshown and not attack.outside}
    assert alone <= set(broke) and not set(broke) & others
    assert "in a session: " in broke["user-namespace"] and "left the vm's namespaces" in broke["user-namespace"]


def test_attacks_need_vms(tmp_path: Path) -> None:
    """Where no vm can be made nothing is said to be held."""
    done = doctor(Path("/proc/nowhere/store"), "--attack")
    assert done.returncode == 4 and "held" not in done.stdout and "REWINDBOX_STORE" in done.stdout


def test_attacks_as_a_person_sees_them() -> None:
    """On a terminal: a table for each group, what broke through with its words made harmless, and the count."""
    master, slave = os.openpty()
    tried = [
        siege.Tried("mounts", "chroot", "leave the root", True, "execution"),
        siege.Tried("network", "names", "ask for a name", False, "in a session: BROKE \x1b[2J"),
    ]
    page = siege._page(Stream(slave, "never"), tried, None, 1.0)
    os.close(master), os.close(slave)
    assert "✓ held" in page and "✗ BROKE" in page and "\x1b" not in page and "in a session: BROKE ^[[2J" in page
    assert page.endswith("\n1 of 2 attacks held, in 1.00 s.\n")


def test_attacks_that_are_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends the attacks; vms, canaries and stores are gone."""
    places = {name: tmp_path / name for name in ("store", "temporary")}
    for place in places.values():
        place.mkdir()
    environment = {"REWINDBOX_STORE": str(places["store"] / "store"), "TMPDIR": str(places["temporary"])}
    process = subprocess.Popen(
        [*COMMAND, "doctor", "--attack"],
        env=os.environ | environment | {"PYTHONPATH": str(Path(rewindbox.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: list(places["store"].glob(".rewindbox-doctor-*/vms/vm_session/u*")), "a vm is there")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, "") and "interrupted" in err
    assert [list(place.iterdir()) for place in places.values()] == [[], []]
