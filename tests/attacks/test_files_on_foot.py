"""The file verbs on a host that refuses openat2: every case of theirs, with paths walked name by name."""

import errno

import pytest
from refusing import OPENAT2, boot

from rewindbox import backends
from rewindbox.backends.namespace import starting

pytest.register_assert_rewrite("conformance.test_files_api")

from conformance.test_files_api import *  # noqa: E402, F403  all of them, whatever is added

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=[errno.ENOSYS, errno.EPERM], ids=["unknown", "refused"])
async def backend(request, anyio_backend, vms_folder):
    """A backend whose supervisors have no openat2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "_BOOT", boot(OPENAT2, request.param))
        made = backends.load("namespace", str(vms_folder))
        made.warm()
    yield made
    await made.close()
