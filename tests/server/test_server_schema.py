"""OpenAPI: a person can read it, and whatever it allows, and much that it does not, is answered as it says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from served import Served

from conftest import SOAK, remove, scaled
from rewindbox.server import app

REPLACED = "positive_data_acceptance,ensure_resource_availability"
"""Checks that take a schema for the whole truth: fitting.py has them, without what no schema can say."""


def test_everything_is_described():
    """Every operation, parameter and field says what it is; every error has its code."""
    openapi = app.routed().openapi()
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["description"], where
            for parameter in operation.get("parameters", ()):
                assert parameter["in"] == "path" or parameter.get("description"), (where, parameter["name"])
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/ready":
                    assert response["description"].startswith("`"), (where, status)
                    assert "application/problem+json" in response["content"], (where, status)
    for name, schema in openapi["components"]["schemas"].items():
        assert schema.get("description"), name
        for field, described in schema["properties"].items():
            assert described.get("description"), f"{name}.{field}"


@pytest.mark.skipif(not shutil.which("schemathesis", path=str(Path(sys.executable).parent)), reason="no schemathesis")
def test_what_openapi_allows_is_answered_as_it_says(tmp_path):
    """schemathesis finds nothing: no answer that is not described, no error of ours, no way around the token."""
    program = str(Path(sys.executable).parent / "schemathesis")
    with Served(tmp_path / "store", POOL_MAX="50", POOL_PER_AGENT="50", POOL_WAIT_S="0.1") as server:
        words = [program, "run", f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {server.token}"]
        words += ["--max-examples", str(scaled(2)), "--exclude-path", "/v1/doctor", "--no-color", "--seed", "1"]
        words += ["--phases", "examples,coverage,fuzzing,stateful" if SOAK else "examples,fuzzing"]
        words += ["--exclude-checks", REPLACED, "--request-timeout", "60", "--generation-database", "none"]
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        ours = {**os.environ, "SCHEMATHESIS_HOOKS": "fitting", "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=ours)
        assert done.returncode == 0, done.stdout[-20_000:]
        assert '"bug"' not in server.log.read_text()
    remove(tmp_path / "store")
