"""The built-in languages: one row each. To add one, add a row; a user does the same in TOML (docs/languages.md).

In a command, `{file}` is the block's file (read-only), `{binary}` a path that a compiler may write and that is
gone after the execution, `{program}` where the vm has the row's program.
"""

from rewindbox.language import Language, Table

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

# The types go away and nothing is checked: models use what they do not declare. The compiler lies beside `tsc`.
_STRIP = (
    "const f=require('fs'),[,tsc,file,to]=process.argv,"
    "t=require(require('path').join(f.realpathSync(tsc),'../../lib/typescript.js')),"
    "r=t.transpileModule(f.readFileSync(file,'utf8'),{fileName:'block.ts',reportDiagnostics:true,compilerOptions:"
    "{module:t.ModuleKind.CommonJS,target:t.ScriptTarget.ES2020,esModuleInterop:true}}),e=r.diagnostics;"
    "process.stderr.write(t.formatDiagnostics(e,{getCurrentDirectory:()=>'',getNewLine:()=>'\\n',"
    "getCanonicalFileName:n=>n}));if(e.length)process.exit(1);f.writeFileSync(to,r.outputText)"
)

# Without `<?` it is code all the same: php itself would print it.
_PHP = 'strpos(file_get_contents($argv[1]),"<?")===false?eval(file_get_contents($argv[1])):require $argv[1];'

LANGUAGES = Table(
    (
        Language(
            name="python",
            aliases=("py", "python3", "py3", "python2", "ipython", "pycon", "tool_code"),
            extension="py",
            program="python3",
            run=("python3", "{file}"),
            session="live",
            common_packages=("numpy", "pandas", "requests"),
            restrictions=("__import__", "exec(", "eval("),
            package="python3",
            hello="print('hello')",
        ),
        Language(
            name="javascript",
            aliases=("js", "node", "nodejs", "mjs", "cjs", "ecmascript"),
            extension="js",
            program="node",
            run=("node", "-e", _NODE, "{file}"),
            common_packages=("lodash", "axios", "moment"),
            restrictions=("eval(", "function(", "require("),
            package="nodejs",
            hello="console.log('hello')",
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
            package="bash",
            hello="echo hello",
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
            package="rustc",
            hello='fn main() { println!("hello"); }',
        ),
        Language(
            name="typescript",
            aliases=("ts", "mts", "cts"),
            extension="ts",
            program="tsc",
            compile=("node", "-e", _STRIP, "{program}", "{file}", "{binary}"),
            run=("node", "-e", _NODE, "{binary}"),
            timeout_multiplier=2.0,
            package="node-typescript",
            hello="const word: string = 'hello'; console.log(word)",
        ),
        Language(
            name="go",
            aliases=("golang",),
            extension="go",
            program="go",
            compile=("go", "build", "-o", "{binary}", "{file}"),
            run=("{binary}",),
            timeout_multiplier=3.0,
            # In the vm's home the compiler's cache would be part of every point.
            environment={"GOCACHE": "/run/go", "GOPROXY": "off", "GOTOOLCHAIN": "local"},
            package="golang-go",
            hello='package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }',
        ),
        Language(
            name="c",
            aliases=(),
            extension="c",
            program="gcc",
            alternatives=("clang", "cc"),
            compile=("{program}", "-o", "{binary}", "{file}", "-lm"),
            run=("{binary}",),
            timeout_multiplier=2.0,
            package="gcc libc6-dev",
            hello='#include <stdio.h>\nint main(void) { puts("hello"); return 0; }',
        ),
        Language(
            name="cpp",
            aliases=("c++", "cxx", "cc", "cplusplus"),
            extension="cpp",
            program="g++",
            alternatives=("clang++", "c++"),
            compile=("{program}", "-std=c++17", "-o", "{binary}", "{file}"),
            run=("{binary}",),
            timeout_multiplier=3.0,
            package="g++",
            hello='#include <iostream>\nint main() { std::cout << "hello\\n"; }',
        ),
        Language(
            name="java",
            aliases=("jvm",),
            extension="java",
            program="java",
            # For a program that lives a second: few threads, the quick compiler, no counters, which would stay in /tmp.
            run=("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "{file}"),
            timeout_multiplier=3.0,
            package="default-jdk-headless",
            hello='class Hello { public static void main(String[] a) { System.out.println("hello"); } }',
        ),
        Language(
            name="ruby",
            aliases=("rb", "irb"),
            extension="rb",
            program="ruby",
            run=("ruby", "{file}"),
            package="ruby",
            hello="puts 'hello'",
        ),
        Language(
            name="perl",
            aliases=("pl", "perl5"),
            extension="pl",
            program="perl",
            run=("perl", "{file}"),
            package="perl",
            hello='print "hello\\n";',
        ),
        Language(
            name="php",
            aliases=("php7", "php8"),
            extension="php",
            program="php",
            run=("php", "-r", _PHP, "--", "{file}"),
            package="php-cli",
            hello='<?php echo "hello\\n";',
        ),
        Language(
            name="r",
            aliases=("rscript", "rlang"),
            extension="R",
            program="Rscript",
            run=("Rscript", "{file}"),
            timeout_multiplier=1.5,
            package="r-base-core",
            hello='cat("hello\\n")',
        ),
        Language(
            name="lua",
            aliases=("lua5", "luajit"),
            extension="lua",
            program="lua",
            alternatives=("lua5.4", "lua5.3", "luajit"),
            run=("{program}", "{file}"),
            package="lua5.4",
            hello='print("hello")',
        ),
    )
)
