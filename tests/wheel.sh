#!/usr/bin/env bash
# Build the wheel with the given python, install it in an empty environment without the source, run an answer.
# What it is built with is what that python has; what it needs comes from the lock, by hashes.
set -euo pipefail
python=$(realpath -s "$1")
project=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$work/dist" "$project"
"$python" -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
    --requirement .ci/runtime.txt
"$work/env/bin/pip" install --quiet --disable-pip-version-check --no-deps "$work"/dist/rewindbox-*.whl
"$work/env/bin/pip" check
cd "$work"
test -f env/lib/python3*/site-packages/rewindbox/py.typed
"$work/env/bin/rewindbox" --store "$work/store" run "$project/examples/answer.md" --vm wheel --on-failure rollback || test $? -eq 1  # a block of it fails, and is undone
"$work/env/bin/rewindbox" --store "$work/store" --json history --vm wheel | grep -q '"total"'
echo "wheel: 1 passed, 0 failed"
