"""The language table: names, aliases, and how a block of each is run inside a vm.

A command is a list of words in which `{file}` is the block's file (read-only), `{binary}` a path that a
compiler may write. Nothing here runs anything; a backend does.
"""

from dataclasses import dataclass
from typing import Literal

from rewindbox.errors import UnsupportedLanguage


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """How a language is run."""

    name: str
    aliases: tuple[str, ...]
    extension: str
    program: str
    """What the host must have on the vm's PATH."""
    compile: tuple[str, ...] = ()
    """Run first, where it is not empty; its failure is the block's failure."""
    run: tuple[str, ...]
    timeout_multiplier: float = 1.0
    """Times the wall clock of the limits, where the caller did not set one."""
    session: Literal["live", "saved"] | None = None
    """How its sessions keep their variables: in a process that stays, or in a file of the vm; None: it has none."""
    common_packages: tuple[str, ...] = ()
    restrictions: tuple[str, ...] = ()
    """Words that the original refuses to run. Kept as data: the vm is the barrier, not these."""


# A script that lies in a read-only folder, yet resolves `require("./x")`, `node_modules` and `__dirname`
# from the working directory, and is `require.main`, as if it had been saved there. The braces keep our names out of
# its scope, where `p = []` would meet a constant; what `-e` makes global beyond that (`fs`, `require` ...) goes away.
_NODE = (
    "{const M=require('module'),p=require('path'),f=process.argv[1],n=p.join(process.cwd(),p.basename(f)),"
    "m=new M(n,null),r=require('fs').readFileSync,g=globalThis,d=Object.getOwnPropertyDescriptor;"
    "for(const k of M.builtinModules)if(k!='console'&&k!='process'&&d(g,k)&&!d(g,k).enumerable)delete g[k];"
    "for(const k of['module','exports','require','__filename','__dirname'])delete g[k];"
    "m.filename=n;m.id='.';m.paths=M._nodeModulePaths(process.cwd());process.mainModule=m;"
    "process.argv[1]=n;M._cache[n]=m;m._compile(r(f,'utf8'),n);m.loaded=true}"
)

LANGUAGES: dict[str, Language] = {
    language.name: language
    for language in (
        Language(
            name="python",
            aliases=("py", "python3", "py3", "python2", "ipython", "pycon"),
            extension="py",
            program="python3",
            run=("python3", "{file}"),
            session="live",
            common_packages=("numpy", "pandas", "requests"),
            restrictions=("__import__", "exec(", "eval("),
        ),
        Language(
            name="javascript",
            aliases=("js", "node", "nodejs", "mjs", "cjs", "ecmascript"),
            extension="js",
            program="node",
            run=("node", "-e", _NODE, "{file}"),
            common_packages=("lodash", "axios", "moment"),
            restrictions=("eval(", "function(", "require("),
        ),
        Language(
            name="bash",
            aliases=("sh", "shell", "zsh", "shellscript", "shell-script"),
            extension="sh",
            program="bash",
            run=("bash", "{file}"),
            session="saved",
            timeout_multiplier=1.5,
            restrictions=("rm -rf", "format", "mkfs"),
        ),
        Language(
            name="rust",
            aliases=("rs",),
            extension="rs",
            program="rustc",
            compile=("rustc", "--edition", "2021", "--crate-name", "block", "-o", "{binary}", "{file}"),
            run=("{binary}",),
            timeout_multiplier=3.0,
            common_packages=("serde", "tokio", "clap"),
            restrictions=("unsafe", "std::process"),
        ),
    )
}

_BY_ALIAS = {alias: name for name, language in LANGUAGES.items() for alias in (name, *language.aliases)}


def canonical(name: str) -> str:
    """The table's name for `name` in any case, or `name` itself in lower case where the table has none."""
    lowered = name.strip().lower()
    return _BY_ALIAS.get(lowered, lowered)


def find(name: str) -> Language:
    """The language called `name` (or one of its aliases, in any case).

    Raises:
        UnsupportedLanguage: the table has no such language; the text lists those it has.
    """
    try:
        return LANGUAGES[canonical(name)]
    except KeyError:
        known = ", ".join(sorted(LANGUAGES))
        raise UnsupportedLanguage(repr(name), remedy=f"choose one of {known}") from None
