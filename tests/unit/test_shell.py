"""Bash sessions: real bash on the host, its state in a temporary folder. In tables a line is a case, ⏎ a newline."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewindbox.backends.namespace import shell

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8", "TERM": "dumb", "GIVEN": "1"}

Run = subprocess.CompletedProcess[bytes]


class Session:
    """Executions one after another over one state file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.code, self.state = folder, folder / "code.sh", folder / "made" / "state"

    def __call__(self, code: str | bytes, stdin: bytes = b"", **environment: str) -> Run:
        self.code.write_bytes(code if isinstance(code, bytes) else code.encode())
        return self._run(shell.command(str(self.code), str(self.state)), stdin, environment)

    def plain(self, code: str) -> Run:
        """The same code by bash alone."""
        self.code.write_text(code)
        return self._run(["bash", str(self.code)], b"", {})

    def _run(self, argv: list[str], stdin: bytes, environment: dict[str, str]) -> Run:
        environment = {**ENVIRONMENT, **environment}
        return subprocess.run(
            argv, input=stdin, capture_output=True, cwd=self.folder, env=environment, timeout=30, check=False
        )


@pytest.fixture
def bash(tmp_path: Path) -> Session:
    return Session(tmp_path)


def quiet(run: Run) -> bytes:
    assert run.stderr == b""
    return run.stdout


def cases(table: str) -> list[str]:
    return [line.replace("⏎", "\n") for line in table.strip().splitlines()]


KINDS = cases(r"""
x='a b' => declare -p x
x= => declare -p x
x=$'\n a\n\n b\n\n' => declare -p x
x=\''"`$HOME$(id)\!' => declare -p x
x=$'\001\177\200\377\e[1mé' => declare -p x
x=$'y\ndeclare -r PATH=\n# end' => declare -p x; echo $PATH
export x=1 y; y=2 => declare -p x y; env | grep '^[xy]='
declare -i x; declare -A y; export z; declare -a w => declare -p x y z w
declare -i x=5 => declare -p x; (x+=2; echo $x)
x=1+1; declare -i x => declare -p x
declare -u x=abc; declare -l y=ABC; declare -c z=abc; w=abc; declare -u w => declare -p x y z w
readonly x='a b'; declare -ir y=3; readonly -a z=(1 2) => declare -p x y z; (x=2) 2>/dev/null || echo no
x=([3]=a [9]=$'b\nc' [10]=''); x+=(d) => declare -p x; echo "${!x[@]}"
x=(); declare -ai y=(1 2+3); y+=([7]=9) => declare -p x y; echo ${#x[@]}
declare -A x; for k in ']' '[' @ \* 'a b' $'n\nl' \" \' '$y' '`' \\ ! '~' = $'\377'; do x[$k]=v$k; done => declare -p x
y=1; declare -n x=y; declare -n u; declare -n w=nothing => declare -p y; declare -pn x u w; echo $x
y=(1 2); declare -n x='y[1]' => echo $x
IFS=,: => declare -p IFS
unset IFS => echo "${IFS-unset}"
set -- -a -b c; getopts ab x; getopts ab x => echo $OPTIND $x
PATH=/odd:$PATH; CDPATH=/usr; export PS4='> ' => declare -p PATH CDPATH PS4
export LC_ALL=C; x=é => declare -p LC_ALL; printf %s $x | od -c
f() { echo "<$1>"; }; a-b.c() (exit 3); g() { cat <<E⏎  t $1⏎⏎E⏎} => declare -f; f 'x y'; g 1; a-b.c; echo $?
f() { echo f; }; export -f f; g() { :; }; declare -ft g; h() { :; }; readonly -f h => declare -F; bash -c f
shopt -s extglob⏎f() { case $1 in +(a)) echo yes;; esac; }; shopt -u extglob => f aaa; shopt extglob
alias ll='ls -l' e=$'echo \'q\'\n'; alias -- -x=y; shopt -s expand_aliases => alias; shopt expand_aliases⏎e
alias ls='ls -d'; shopt -s expand_aliases⏎f() { ls /; } => declare -f f; f
mkdir -p $'o d\n'; cd $'o d\n' => pwd; echo $OLDPWD
umask 0137 => umask
set -- 'a b' '' $'\n' -x é => echo $#; printf "<%s>" "$@"; (shift 99; echo $?)
set -- {1..5000}; for i in {1..2000}; do eval v$i=$i; done; printf -v x %0200000d 1 => echo $# $v2000 ${#x}
trap 'echo "u 1"' USR1; trap '' HUP; trap $'echo a\necho b' SIGUSR2 => kill -USR1 $$; kill -HUP $$; kill -USR2 $$
trap 'echo err' ERR => false; (exit 4); trap -p ERR
trap 'echo debug' DEBUG => x=1; f() { y=1; }; f
trap 'echo return' RETURN => f() { :; }; declare -ft f; f
""")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept(bash: Session, kind: str) -> None:
    """What an execution sets is the same in the next one, and in the one after that."""
    code, show = kind.split(" => ")
    expected = bash.plain(f"{code}\n{show}").stdout
    first = quiet(bash(code))
    assert [first + quiet(bash(show)), first + quiet(bash(show))] == [expected, expected]


OPTIONS = cases("""
-e
-u
-f
-C
-a
-k
-m
-b
-ETP
-o pipefail⏎set +B +h
-o posix
-o vi -o history -o ignoreeof
-eufCaEo pipefail⏎shopt -s failglob nocasematch expand_aliases
-f⏎shopt -s extglob nullglob globstar dotglob lastpipe inherit_errexit⏎shopt -u sourcepath
-a⏎shopt -s localvar_inherit localvar_unset xpg_echo varredir_close compat44
""")


@pytest.mark.parametrize("options", OPTIONS)
def test_options(bash: Session, options: str) -> None:
    """Options hold from the first line of the next execution; they disturb neither loading nor saving."""
    show = "echo $-; shopt -p | sort; set +o; [[ ${unset_one-x} ]]; y=([0]=a)"
    expected = bash.plain(f"set {options}\nx=1 arr=(1 2)\n{show}").stdout
    quiet(bash(f"set {options}\nx=1 arr=(1 2)"))
    assert quiet(bash(show)) == expected
    assert quiet(bash("echo $x ${arr[1]} ${y[0]}")) == b"1 2 a\n"


def test_trace(bash: Session) -> None:
    """Under `set -x` left on, standard error has the lines of the code, as bash writes them, and no others."""
    bash("set -x; f() { echo in; }; set -e")
    for code in cases("f⏎echo $((1+1))\nfor i in 1; do f; done\nfalse\n(exit 3)\nexit 4\ntrap 'echo e' EXIT; exit 1"):
        expected = bash.plain(f"set -e; f() {{ echo in; }}; {{ set -x; }} 2>/dev/null; {code}")
        run = bash(code)
        assert (run.returncode, run.stdout, run.stderr) == (expected.returncode, expected.stdout, expected.stderr)
    bash("exec 7>trace; BASH_XTRACEFD=7; echo hi")
    assert (bash.folder / "trace").read_bytes() == b"+ echo hi\n"


def test_traps_see_little_of_the_saving(bash: Session) -> None:
    """Traps of DEBUG, ERR and RETURN run for the code's own commands; under `set -T` for at most ten of ours."""
    log = bash.folder / "log"
    for options, most in (("", 0), ("set -E", 0), ("set -T", 10)):
        bash.state.unlink(missing_ok=True)
        bash(f"{options}\ntrap 'echo \"$BASH_COMMAND\" >>{log}' DEBUG ERR RETURN")
        log.write_text("")
        bash("x=1; f() { :; }; f; (exit 3); . /dev/null")
        lines = log.read_text().splitlines()
        assert "x=1" in lines
        assert sum("__rb" in line or "\\" in line for line in lines) <= most


STATUSES = cases(r"""
true
(exit 77)
exit 5
exit
f() { return 6; }; f
return 4⏎echo on
nosuchcommand
set -e; false; echo no
set -u⏎echo $nope⏎echo no
echo ${nope:?gone}
echo $((1/0))⏎echo on
set -e⏎f() { false; }; f
echo a⏎if; then
echo 'open
x=(
readonly r=1⏎r=2⏎echo no
set -o posix; readonly q=1; q=2; echo no
kill -TERM $$; sleep 5
kill -KILL $$
exec sh -c 'exit 8'
exec nosuch
set -n; exit 3
set -t⏎exit 3⏎exit 4
set -o pipefail; false | true
echo $0 $# $LINENO ${BASH_SOURCE[0]} ${#FUNCNAME[@]} $BASH_SUBSHELL $- $SHLVL $_
[[ $0 == "${BASH_SOURCE[0]}" ]] && echo main
caller; f() { caller; }; f
cat /dev/stdin; read x; echo $?
trap 'exit 9' EXIT; true
trap 'echo $?; exit 9' EXIT; exit 3
trap 'echo $?' EXIT; false
trap 'echo t; exit 12' TERM; kill $$; sleep 5
trap - EXIT
f() { trap 'echo f' EXIT; }; f; (trap 'echo sub' EXIT); x=$(trap 'echo cs' EXIT); echo $x
trap 'echo a' 0 USR1; trap -p USR1; kill -USR1 $$
trap 'echo e' ERR; trap 'echo x' EXIT; false; exit 1
trap "echo 'q'" EXIT; trap -- 'echo second' EXIT
trap 'echo no' EXIT; trap - EXIT
trap 'echo no' EXIT; trap EXIT
trap '' EXIT
""")


@pytest.mark.parametrize("code", STATUSES)
def test_runs_as_by_bash(bash: Session, code: str) -> None:
    """Status, output and messages are those of `bash file`, in the first execution and in a later one."""
    expected = bash.plain(code)
    for _ in range(2):
        run = bash(code)
        assert (run.returncode, run.stdout, run.stderr) == (expected.returncode, expected.stdout, expected.stderr)
        bash.state.unlink(missing_ok=True)
        quiet(bash("z=1; old() { :; }; shopt -s extglob"))


ENDS = cases(r"""
exit 3
set -e; false; x=no
set -u; echo $nope
echo ${nope:?}
set -e; f() { false; }; g() { f; }; g
f() { exit 1; }; f
if; then
exec nosuch
kill -TERM $$; sleep 5
trap 'echo bye' EXIT; exit 1
set -e; trap 'exit 2' EXIT; false
trap "x=no; exit 0" EXIT
trap - EXIT
trap 'exit 3' ERR; false
f() { trap 'echo f' EXIT; exit 1; }; f
exec >&- 2>&- <&-
ulimit -n 60
trap 'x' 0; exit
""")


@pytest.mark.parametrize("end", ENDS)
def test_saved_however_it_ends(bash: Session, end: str) -> None:
    """What was done before bash ended by itself is saved, whatever the status and whatever EXIT trap there is."""
    bash(f"x=1; arr=(1 2)\n{end}")
    assert quiet(bash("set +e; trap - ERR; echo $x ${arr[1]}")) == b"1 2\n"


@pytest.mark.parametrize("end", ["kill -KILL $$", "exec true", "exec sh -c 'exit 3'", "set -n"])
def test_not_saved(bash: Session, end: str) -> None:
    """A shell that is killed or replaced leaves the state of the last execution."""
    bash("x=1")
    bash(f"x=2\n{end}")
    assert quiet(bash("echo $x")) == b"1\n"


def test_exit_trap_does_not_survive(bash: Session) -> None:
    """An EXIT trap runs at the end of the execution that set it, once, and sees its status."""
    assert quiet(bash("trap 'echo bye $?' EXIT; exit 3")) == b"bye 3\n"
    assert quiet(bash("exit 3")) == b""


def test_locals_are_not_the_sessions(bash: Session) -> None:
    """An `exit` within functions saves the session's variables and parameters, not those of the functions."""
    bash("x=1 arr=(a b) y=5 HOME=/tmp; declare -n ref=y; set -- p q")
    before = bash.state.read_bytes()
    names = "local x=3 only=1 HOME=/f; local -r fixed=1; local -A arr=([k]=v); local -n r=y ref=x; IFS=,"
    for end in ("exit 3", "set -e; false"):
        bash(f"f() {{ local IFS; {names}; {end}; }}\ng() {{ local x=2 y=6 IFS=:; f 1 2 3; }}\ng z")
        bash("unset -f f g; set +e")
        assert bash.state.read_bytes() == before
    bash("f() { y=8; declare -g z=9; local w=1; exit; }; f 1")
    assert quiet(bash("echo $x ${arr[1]} $y $z $w $ref $# $HOME")) == b"1 b 8 9 8 2 /tmp\n"


NASTY = cases(r"""
declare() { echo D; }; builtin() { echo B; }; printf() { echo P; }; echo() { :; }; test() { :; }; [() { :; }
cd() { echo C; }; command() { echo M; }; shopt() { :; }; alias() { :; }; trap() { :; }; mapfile() { :; }; exit() { :; }
set() { :; }; unset() { :; }; eval() { :; }; export() { :; }; exec() { :; }; source() { :; }; .() { :; }; umask() { :; }
pwd() { :; }; mv() { :; }; mkdir() { :; }; rm() { :; }; builtin() { :; }
shopt -s expand_aliases; alias builtin='echo B' declare=false if=echo eval=false .=false set=false exit=echo unset=false
shopt -s expand_aliases; alias trap=false case=false for=false exec=false [[=false local=false while=false {=false
IFS=abdelr_
IFS=; set -f
set -o posix; IFS=0123
unset PATH HOME TERM PWD IFS BASH_ALIASES RANDOM
PATH=/nope TMPDIR=/nope
readonly PATH HOME x
GLOBIGNORE='*' BASH_COMPAT=4.2 LC_ALL=C LANG=nope
set -euCfaEk; shopt -s failglob nocasematch
umask 777
exec 2>&-
mkdir d; cd d; rmdir ../d; cd /
""")


@pytest.mark.parametrize("code", NASTY)
def test_what_the_code_does_to_itself(bash: Session, code: str) -> None:
    """No function, alias, option or variable of the code breaks loading or saving, or makes a sound in it."""
    first, second = bash(f"x=1; y=('a b' c)\n{code}"), bash("z=3; w=$x")
    assert [(run.returncode, run.stdout, run.stderr) for run in (first, second)] == [(0, b"", b"")] * 2
    state = bash.state.read_text()
    assert all(line in state for line in ('x="1"', 'w="1"', 'y=([0]="a b" [1]="c")', 'z="3"'))


def test_shadowing_functions_are_kept(bash: Session) -> None:
    """Functions with the names of what we call are the session's, as any."""
    bash('for f in declare builtin printf set trap cd; do eval "$f() { command echo $f; }"; done')
    assert quiet(bash("declare; builtin; printf; set; trap; cd")) == b"declare\nbuiltin\nprintf\nset\ntrap\ncd\n"


def test_nothing_of_ours_is_seen(bash: Session) -> None:
    """The code finds none of our names, in no list of names that bash or the environment has."""
    for _ in range(2):
        seen = quiet(bash("echo $_; set; declare -p; declare -F; alias; env; jobs; compgen -v; ls /proc/$$/fd; x=1"))
        assert b"__rb" not in seen and b"/dev/fd" not in seen and b"BASH_ENV" not in seen


def test_environment(bash: Session) -> None:
    """What is given is not written down; what the code changed or unset holds against what comes next."""
    quiet(bash("export CHANGED=2; unset GIVEN", SECRET="s3cret", CHANGED="1"))
    assert b"s3cret" not in bash.state.read_bytes()
    assert quiet(bash("echo $SECRET $CHANGED ${GIVEN-no}", CHANGED="3", SECRET="new")) == b"new 2 no\n"
    assert quiet(bash("echo ${SECRET-no}; declare -p HOME", HOME="/new")) == b'no\ndeclare -x HOME="/new"\n'


def test_environment_of_bash(bash: Session) -> None:
    """BASH_ENV and exported functions do what they do to `bash file`."""
    (bash.folder / "env").write_text("echo from env\n")
    given = {"BASH_ENV": str(bash.folder / "env"), "BASH_FUNC_g%%": "() {  echo g; }"}
    assert quiet(bash("g; echo ${BASH_ENV##*/}", **given)) == b"from env\ng\nenv\n"


def test_standard_input(bash: Session) -> None:
    """Standard input is the code's, from its first byte to its last."""
    assert quiet(bash("read x; echo $x; cat", stdin=b"one\ntwo\n")) == b"one\ntwo\n"


def test_unchanged_state_is_not_written(bash: Session) -> None:
    """An execution that changes nothing leaves the file and its folder as they were."""
    quiet(bash("x=1; f() { :; }; cd /; trap : USR1"))
    before = [(s.st_ino, s.st_mtime_ns) for s in map(os.stat, (bash.state, bash.state.parent))]
    for code in ("", "echo $x $RANDOM $SECONDS; (x=2; false) | true; f; ls / >/dev/null", "[[ a =~ a ]]; exit 3"):
        bash(code)
        assert [(s.st_ino, s.st_mtime_ns) for s in map(os.stat, (bash.state, bash.state.parent))] == before


def test_folder_is_made(bash: Session) -> None:
    """The state's folder is made for nobody else, as is the file; nothing else is in it."""
    bash.state = bash.folder / "a" / "b c" / "state"
    quiet(bash("umask 0; x=1"))
    assert [p.stat().st_mode & 0o777 for p in (bash.state, bash.state.parent)] == [0o600, 0o700]
    assert os.listdir(bash.state.parent) == ["state"]


def test_relative_paths(bash: Session) -> None:
    """Paths are taken from the folder in which the shell starts, wherever the code goes."""
    bash.state = Path("rel/state")
    quiet(bash("x=1; cd /"))
    assert quiet(bash("echo $x $PWD")) == b"1 /\n"
    assert (bash.folder / "rel" / "state").exists()


@pytest.mark.parametrize(("code", "status"), [("x=1", 1), ("x=1; exit 7", 7), ("trap : EXIT; exit 6", 6)])
def test_saving_that_fails(bash: Session, code: str, status: int) -> None:
    """A state that cannot be written gives one line, status 1 where it was 0, and the code has run."""
    (bash.folder / "made").write_text("a file where the folder should be")
    run = bash(f"echo ran; {code}")
    said = f"bash: the state of this shell is not saved: {bash.state}: Not a directory\n".encode()
    assert (run.returncode, run.stdout, run.stderr) == (status, b"ran\n", said)


def test_saving_that_meets_a_limit(bash: Session) -> None:
    """A state that does not fit is said to be lost, and leaves the last one and nothing beside it."""
    quiet(bash("x=1"))
    run = bash("x=2; ulimit -f 0")
    assert (run.returncode, run.stderr.count(b"\n"), os.listdir(bash.state.parent)) == (1, 1, ["state"])
    assert quiet(bash("echo $x")) == b"1\n"


@pytest.mark.parametrize("damage", ["empty", "half", "noise", "binary", "syntax", "quote"])
def test_damaged_state(bash: Session, damage: str) -> None:
    """A state that is not whole gives one line on standard error; the code runs, and the next state is whole."""
    quiet(bash("x=1; f() { :; }"))
    good = bash.state.read_bytes()
    damaged = {"empty": b"", "half": good[: len(good) // 2], "noise": os.urandom(300), "binary": b"\x7fELF\0" + good}
    damaged["syntax"] = good.replace(b"declare -- x", b"if; then (( declare x")
    damaged["quote"] = good.replace(b'x="1"', b'x="1')
    bash.state.write_bytes(damaged[damage])
    run = bash("echo ran; y=2")
    said = f"bash: {bash.state} is damaged: not all of the state is here\n".encode()
    assert (run.returncode, run.stdout, run.stderr) == (0, b"ran\n", said)
    assert quiet(bash("echo $y")) == b"2\n"


def test_folder_that_is_gone(bash: Session) -> None:
    """A folder that is there no more gives one line; the code runs where the shell starts."""
    quiet(bash("mkdir d; cd d; x=1"))
    (bash.folder / "d").rmdir()
    run = bash("echo $x $PWD")
    assert (run.stdout, run.stderr.count(b"\n")) == (f"1 {bash.folder}\n".encode(), 1)


def test_jobs_do_not_save(bash: Session) -> None:
    """A job or subshell of the code neither holds up nor writes the state."""
    quiet(bash("x=1; (sleep 0.2; x=2; exit 1) >/dev/null 2>&1 & y=3; (x=4; exit); z=$(x=5; exit)"))
    assert quiet(bash("echo $x $y")) == b"1 3\n"


def test_argv_is_small(tmp_path: Path) -> None:
    """The argv starts with bash and takes little of what an exec may carry."""
    argv = shell.command(str(tmp_path / "code"), str(tmp_path / "state"))
    assert argv[0] == "bash"
    assert sum(map(len, argv)) < 16_000


TEXTS = st.binary(max_size=40).map(lambda text: text.replace(b"\0", b"0"))
ARRAYS = st.dictionaries(st.integers(0, 10**6), TEXTS, max_size=4)
TABLES = st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=4)


def quoted(text: bytes) -> bytes:
    return b"'" + text.replace(b"'", b"'\\''") + b"'"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=TEXTS, array=ARRAYS, table=TABLES)
def test_any_value(bash: Session, value: bytes, array: dict[int, bytes], table: dict[bytes, bytes]) -> None:
    """Any bytes but NUL come back in variables, parameters, arrays and their keys, whatever the locale."""
    bash.state.unlink(missing_ok=True)
    lines = [b"x=%s; set -- %s; declare -a arr; declare -A table" % (quoted(value), quoted(value))]
    lines += [b"arr[%d]=%s" % (index, quoted(text)) for index, text in array.items()]
    lines += [b"k=%s; table[$k]=%s" % (quoted(key), quoted(text)) for key, text in table.items()]
    show = (
        b'for x in "$x" "$#" "$1" "${!arr[@]}" "${arr[@]}" "${!table[@]}" "${table[@]}"; do printf "%s\\0" "$x"; done'
    )
    show = b'(printf "%s\\0" "$x" "$#" "$1" "${!arr[@]}" "${arr[@]}"; for k in "${!table[@]}"; do '
    show += b'printf "%s\\0" "$k=${table[$k]}"; done)'
    # Keys have no order in bash.
    expected = sorted(quiet(bash(b"\n".join([*lines, b"unset k", show]))).split(b"\0"))
    assert sorted(quiet(bash(show)).split(b"\0")) == expected
    assert sorted(quiet(bash(b"LC_ALL=C; " + show)).split(b"\0")) == expected
