"""A bash session without a live process: what a shell holds is saved in a file at its end and loaded by the next one.

`command` gives an argv; it knows nothing of vms. The code runs as by `bash file`: same status, `$0`, line numbers,
standard input. The file lies among the vm's own files, so it rewinds with them; it is code, loaded by code: no
boundary. Needs bash 5 and /proc.

Kept: variables of every kind and attribute (of the environment only what the code changed or unset, so that values
given to one execution are not written down), functions, aliases, `set -o`, `shopt`, folder, umask, positional
parameters, and traps, also of DEBUG, ERR and RETURN.
Lost: background jobs, open descriptors, ulimit, history, `hash`, `enable`, `complete`, the `pushd` stack, what bash
itself counts or draws (SECONDS, which starts at 0, RANDOM, BASH_REMATCH ...), and `set -n` and `set -t`, which would
end every later execution. Positional parameters set in an execution that ends within a function or sourced file: those
it began with remain. A trap of EXIT runs at the end of the execution that set it, after the saving, and is then gone.

Saved when bash ends by itself, whatever the status, and on a signal on which it runs its EXIT trap (HUP, INT, TERM).
Not saved, so that the last state remains: after SIGKILL, `exec prog` or `set -n`; with status 1 under `set -r` and
where IFS is readonly.

What can be seen: a trap of EXIT in `trap -p` (on standard error too under `set -v`; a DEBUG trap under `set -T` sees
its first commands), descriptor 47, and `/dev/fd/9` as the file of functions of former executions. Names that begin
with `__rb_` are ours.
Bash has one EXIT trap, so code that mentions one, or a function it was left, finds a function `trap`, which puts ours
before it. There is none, and an EXIT trap costs the saving, where a sourced file or `builtin trap` sets it, in posix
mode, or where the code also names DEBUG or RETURN or asks for or removes a trap of ERR: a function passes none on.
"""

NOTHING = b'# What a\n\\builtin unset -v "${!__rb_@}"\n# end\n'
"""A state file that says so much as none: that of a fresh shell."""


def command(code_file: str, state_file: str) -> list[str]:
    """The argv that runs `code_file` with what `state_file` holds, and saves to it afterwards.

    A state file that is not there is a fresh shell; its folder is made, 0700. One that is not whole gives one line on
    standard error and is replaced at the end. A saving that fails gives one line too, and status 1 where it was 0.
    A state that would not change is not written.
    """
    # -p: nothing of the environment (BASH_ENV, functions) acts on this first shell; the second takes it as usual.
    return ["bash", "-p", "-c", _START, "bash", code_file, state_file, _LOAD, _SAVE]


# A script that bash itself reads is the only way to the statuses, traces and traps of `bash file`; `source` differs in
# each of them. What comes before its first line must be named by BASH_ENV, hence the second bash: 1 ms.
_START = r"""
[[ $2 == /* ]] || set -- "$1" "$PWD/$2" "${@:3}"
[[ $1 == /* ]] || set -- "$PWD/$1" "${@:2}"
__rb_env=${BASH_ENV@A} __rb_code=$1 __rb_file=$2 __rb_load=$3 __rb_save=$4 BASH_ENV=/dev/fd/9 \
    exec -a bash "$BASH" -- "$1" 9<<<'\builtin eval "$__rb_load" bash'
"""

# The EXIT trap, which bash shows. What it reads waits in a pipe, as there is no variable that the code would not see.
# A subshell, so that anything may be undone, and posix mode, in which `.` means itself whatever functions there are.
_AT_END = r"""( __rb_status=$? __rb_ok=@ok@ __rb_o=$SHELLOPTS __rb_shopt=$BASHOPTS POSIXLY_CORRECT=y; \set +v
\. /dev/fd/47 ) {BASH_XTRACEFD}>/dev/null >/dev/null"""

# Before the code. The last line of a state sets options and traps that our own lines could not bear: where all went
# well nothing follows it. `$(<file)` does not fork.
# The function `trap`: after the real one has done its work, it puts the saving before what the code wants run, with the
# status that this will ask for. In a subshell, which has an EXIT trap of its own, it does no more than the real one.
_LOAD = r"""
\exec 9<&-
\builtin unset -v BASH_ENV; \builtin eval "$__rb_env"
[[ ! -r ${BASH_ENV-} ]] || \builtin source "$BASH_ENV"
\builtin export -n "${!__rb_@}"
\exec 47<<<"__rb_file=${__rb_file@Q} __rb_fresh_cd=${PWD@Q} __rb_fresh_o=$SHELLOPTS __rb_fresh_shopt=$BASHOPTS
$__rb_save"
\builtin trap -- '@last@ || \builtin exit $?' EXIT
{ __rb_code=$(<"$__rb_code") __rb_state=$(<"$__rb_file"); } 2>/dev/null
__rb_text=$__rb_state$__rb_code
if [[ $__rb_text == *trap* ]] &&
    [[ $__rb_text =~ trap.*EXIT|trap[^$'\n']*[[:space:]]0([[:space:];&|]|$) ]] &&
    [[ ! $__rb_text =~ DEBUG|RETURN|trap\ +-p?\ [^$'\n']*ERR ]]; then
    trap() {
        { \builtin trap "$@"; } 2>/dev/null || { \builtin trap "$@"; \builtin return; }
        {
            [[ ${1-} != -- ]] || \builtin shift
            [[ $BASHPID == $$ && $# != 0 && $1 != -[lpP]* ]] || \builtin return 0
            [[ $# != 1 ]] || \builtin set -- - "$1"
            \builtin local "__rb_do=$1"
            [[ $__rb_do != - ]] || __rb_do=
            while [[ $# -gt 1 ]]; do
                \builtin shift
                [[ $1 != @(EXIT|0) ]] || \builtin trap -- '@first@ && </dev/null'$'\n'"$__rb_do" EXIT
            done
        } 2>/dev/null
    }
fi
[[ -e $__rb_file ]] || __rb_state=$'# What a\n\\builtin unset -v "${!__rb_@}"\n# end'
if [[ $__rb_state != '# What a'*$'\n# end' ]] || ! \builtin eval "$__rb_state" 3>&2 2>/dev/null; then
    \builtin printf 'bash: %s is damaged: not all of the state is here\n' "$__rb_file" >&2
    \builtin unset -v "${!__rb_@}"
fi #"""
_LOAD = _LOAD.replace("@last@", _AT_END.replace("@ok@", "0")).replace("@first@", _AT_END.replace("@ok@", "$?"))

# After the code. Nothing that is to be kept may change before it is told, IFS and the traps included. What bash itself
# sets and what the environment gave are unset first, so that `declare -p` tells the rest: one line for any value.
_SAVE = r"""
\set +aefuvkCETx
[[ -e /dev/fd/2 ]] && \exec 3>&2 2>/dev/null || \exec 3>/dev/null
if [[ $__rb_o == *@(errtrace|functrace)* ]]; then  # the traps of DEBUG and ERR would run for every command of ours
    __rb_traps=$(\trap -p)
    \trap - DEBUG ERR RETURN
fi
__rb_call='\builtin ' __rb_builtin=
if \export -nf builtin; then
    __rb_call='\' __rb_builtin=$(\unset -f declare; \declare -f builtin)$'\n'
    \unset -f builtin
fi
\builtin shopt -u expand_aliases extdebug failglob nullglob nocasematch localvar_unset
\builtin shopt -s extglob; \builtin set +o posix
! \builtin declare -F trap || [[ $(\builtin declare -f trap) != *__rb_do* ]] || \builtin unset -f trap
__rb_mark=__rb_$RANDOM$RANDOM __rb_depth=${#BASH_SOURCE[@]} __rb_hidden=' '
[[ ${HOSTNAME@a} ]] || \builtin unset -v HOSTNAME
\builtin unset -v BASH BASHPID BASH_{ALIASES,ARGC,ARGV,ARGV0,CMDS,COMMAND,LINENO,LOADABLES_PATH,MONOSECONDS,REMATCH} \
    BASH_{SOURCE,SUBSHELL,TRAPSIG,VERSION} COMP_WORDBREAKS DIRSTACK EPOCHREALTIME EPOCHSECONDS FUNCNAME GROUPS HISTCMD \
    HOSTTYPE LINENO MACHTYPE OSTYPE PIPESTATUS POSIXLY_CORRECT RANDOM SECONDS SHLVL SRANDOM _

# Within a function its variables hide the session's. `declare -gt` marks the global of a name, so what stays unmarked
# is local, and to unset that from yet another function uncovers what it hid.
__rb_uncover() {
    [[ -R $1 ]] && \builtin unset -n "$1" || \builtin unset -v "$1" || __rb_hidden+="$1 "
}
for (( __rb_i = __rb_depth; __rb_i > 2; __rb_i-- )); do
    __rb_names=$(
        IFS=$'\n'; \builtin set -f
        for __rb_line in $(\builtin declare -p); do
            __rb_name=${__rb_line#declare -* } __rb_name=${__rb_name%%=*}
            [[ -R $__rb_name ]] && \builtin declare -gnt "$__rb_name" || \builtin declare -gt "$__rb_name"
        done
        for __rb_line in $(\builtin declare -p); do
            __rb_name=${__rb_line#declare -* } __rb_name=${__rb_name%%=*}
            [[ $__rb_line == 'declare -'*([^ ])t* ]] || \builtin printf '%s ' "$__rb_name"
        done
    )
    while [[ $__rb_names ]]; do
        __rb_uncover "${__rb_names%% *}"
        __rb_names=${__rb_names#* }
    done
done
\builtin unset -f __rb_uncover
\builtin mapfile -d '' -t __rb_fresh </proc/self/environ
__rb_unset=
for __rb_line in IFS=$' \t\n' OPTERR=1 OPTIND=1 'PS4=+ ' "${__rb_fresh[@]}"; do
    __rb_name=${__rb_line%%=*}
    case $__rb_name in
        __rb_* | _ | BASH_ENV | PWD | SHLVL | '' | [0-9]* | *[^[:word:]]*) continue ;;
        IFS | OPTERR | PS4) __rb_as= ;;
        OPTIND) __rb_as=i ;;
        *) __rb_as=x ;;
    esac
    if [[ ! ${!__rb_name+x} ]]; then
        __rb_unset+=" $__rb_name"
    elif [[ ${!__rb_name} == "${__rb_line#*=}" && ${!__rb_name@a} == "$__rb_as" ]]; then
        \builtin unset -v "$__rb_name"
    fi
done
\builtin unset -v __rb_fresh
__rb_all=$(
    \builtin umask; \builtin declare -F; \builtin declare -p; \builtin echo "$__rb_mark"
    \builtin pwd; \builtin echo "$__rb_mark"
    \builtin trap -p; \builtin echo "$__rb_mark"
    \builtin alias -p; \builtin echo "$__rb_mark"
    \builtin declare -f; \builtin echo .
)
__rb_why='what it holds is too odd, as a readonly IFS'
\builtin trap -- '
    if [[ $__rb_why ]]; then
        \builtin printf "bash: the state of this shell is not saved: %s\n" "$__rb_why" >&3
        __rb_ok=$(( __rb_status ? __rb_status : 1 ))
    fi
    \builtin exit $__rb_ok' EXIT
[[ ${LC_ALL@a} == *r* ]] || LC_ALL=C
IFS=$'\n'; \builtin set -f
__rb_mask= __rb_flags= __rb_set= __rb_i=0
for __rb_line in $__rb_all; do
    __rb_i+=+1+${#__rb_line}
    [[ $__rb_line != "$__rb_mark" ]] || break
    __rb_rest=${__rb_line#declare -* } __rb_name=${__rb_rest%%=*}
    __rb_as=${__rb_line#declare -} __rb_as=${__rb_as%% *}
    [[ $__rb_hidden != *" $__rb_name "* ]] || continue
    case $__rb_as:$__rb_name in
        f:* | *:@(__rb_*|_|BASHOPTS|BASH_@(ARG[CV]|LINENO|SOURCE|VERSINFO|XTRACEFD))) ;;
        *:@(EUID|PIPESTATUS|PPID|PWD|SHELLOPTS|UID)) ;;
        [0-9]*) __rb_mask=$__rb_line ;;
        f*) __rb_flags+="\\builtin declare -$__rb_as ${__rb_name@Q}"$'\n' ;;
        # The value as it is, before what would change it when it is assigned.
        *[iluc]*:*) __rb_set+="declare -g${__rb_as//[!aA]/} $__rb_rest"$'\n'"declare -$__rb_as $__rb_name"$'\n' ;;
        *) __rb_set+=$__rb_line$'\n' ;;
    esac
done
__rb_all=${__rb_all:__rb_i} __rb_mark+=$'\n' __rb_part=()
for __rb_i in 0 1 2; do
    __rb_part+=("${__rb_all%%"$__rb_mark"*}")
    __rb_all=${__rb_all:${#__rb_part[__rb_i]}+${#__rb_mark}}
done

__rb_early= __rb_late= __rb_last=
trap() {
    case $3 in
        EXIT) ;;
        DEBUG) __rb_last="${__rb_call}trap -- ${2@Q} DEBUG; " ;;
        ERR | RETURN) __rb_late+="${__rb_call}trap -- ${2@Q} $3; " ;;
        *) __rb_early+="\\builtin trap -- ${2@Q} $3"$'\n' ;;
    esac
}
\builtin eval "${__rb_traps-${__rb_part[1]}}"
__rb_options() {
    [[ $2 == "$3" ]] || for __rb_name in $2; do
        [[ :$3:noexec:onecmd:posix:xtrace: == *:$__rb_name:* ]] || __rb_late+="$__rb_call$1 $__rb_name; "
    done
}
IFS=:
[[ :$__rb_o: != *:xtrace:* ]] || __rb_last="${__rb_call}set -o xtrace; $__rb_last"
[[ :$__rb_o: != *:posix:* ]] || __rb_late="${__rb_call}set -o posix; $__rb_late"
[[ :$__rb_shopt: == *:extglob:* ]] || __rb_late+="${__rb_call}shopt -u extglob; "
__rb_options 'shopt -s' "$__rb_shopt" "$__rb_fresh_shopt"
__rb_options 'shopt -u' "$__rb_fresh_shopt" "$__rb_shopt"
__rb_options 'set -o' "$__rb_o" "$__rb_fresh_o"
__rb_options 'set +o' "$__rb_fresh_o" "$__rb_o"

\builtin mapfile -t -n 2 __rb_old <"$__rb_file"
IFS=' ' __rb_args='\builtin set -- '
if (( __rb_depth == 2 )); then
    __rb_args+=${*@Q}
elif [[ ${__rb_old[1]-} == "$__rb_args"* ]]; then
    __rb_args=${__rb_old[1]}
fi
__rb_rest=${__rb_part[0]%$'\n'} __rb_cd=
[[ $__rb_rest == "$__rb_fresh_cd" ]] ||
    __rb_cd="\\builtin cd -- ${__rb_rest@Q} || \\builtin printf 'bash: no folder %s\\n' ${__rb_rest@Q} >&3"$'\n'
__rb_new="# What a bash session holds; written by the shell itself.
$__rb_args
\\builtin umask $__rb_mask
$__rb_cd$__rb_early${__rb_unset:+"\\builtin unset -v$__rb_unset"$'\n'}$__rb_set${__rb_part[2]}\\builtin shopt -s extglob
${__rb_all%.}$__rb_flags$__rb_builtin{ ${__rb_call}unset -v \"\${!__rb_@}\"; $__rb_late$__rb_last}
# end"

__rb_why=
if [[ $__rb_new != "$(<"$__rb_file")" ]]; then
    \builtin umask 077
    [[ -d ${__rb_file%/*} ]] || \builtin command -p mkdir -p -- "${__rb_file%/*}"
    if __rb_why=$({
        \builtin printf '%s\n' "$__rb_new" >|"$__rb_file.new" &&
            \builtin command -p mv -f -- "$__rb_file.new" "$__rb_file"
    } 2>&1); then
        __rb_why=
    else
        \builtin command -p rm -f -- "$__rb_file.new"
        __rb_why=${__rb_why##*: } __rb_why="$__rb_file: ${__rb_why:-a limit}"
    fi
fi
\builtin exit
"""
