"""Who asks a server, and what of it is set where: URL, role, limits, tokens."""

import pytest
from boxes_there import ANSWER, serving
from served import Served

from conftest import remove
from rewindbox import AsyncRewindbox, Limits, Rewindbox
from rewindbox.client import RemoteBox
from rewindbox.errors import ConfigError, InvalidArgument, LanguageRefused, Refused, RewindboxError, TooManyVms
from rewindbox.server.tokens import Tokens

server = pytest.fixture(scope="module")(serving)


@pytest.mark.parametrize(
    "url", ["http://", "http://user:rbx_secret@host", "http://host/?a=b", "http://host:99999", "http://ho\nst"]
)
def test_what_is_no_url_is_refused(url):
    """Before anything is asked, and a secret in it is not repeated."""
    with pytest.raises(InvalidArgument) as caught:
        Rewindbox(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidArgument):
        Rewindbox("http://host", token="not a token\n\u00e4")


def test_a_role_says_where(tmp_path, server):
    """http: at its api_base_url, by what the role allows; direct, or nothing: here."""

    def role(**said):
        history = said.pop("history", {})
        return {"name": "ann", "extra": {"vm_execution": {"enabled": True, "history": history, **said}}}

    far = role(history={"integration_mode": "http"}, api_base_url=server.url, allowed_languages=["bash", "go"])
    with Rewindbox.from_role(far, token=server.token) as box:
        vm = box.vm("of-a-role")
        done = vm.execute("bash", "echo there")
        assert (done.stdout, done.agent_id) == ("there\n", "ann")
        with pytest.raises(LanguageRefused):
            vm.execute("python", "1")
        with pytest.raises(LanguageRefused):
            vm.execute("go", "1")  # which the server does not allow
        assert [decision.skipped is None for decision in box.plan(ANSWER)] == [False, True, True]
    for near in (role(history={"integration_mode": "direct"}, api_base_url=server.url), role()):
        assert not isinstance(AsyncRewindbox.from_role(near, tmp_path), RemoteBox)
    with pytest.raises(ConfigError, match="integration_mode"):
        Rewindbox.from_role(far, tmp_path)
    with pytest.raises(Refused, match="may not run code"):
        Rewindbox.from_role({"name": "bob", "vm_execution": {**far["extra"]["vm_execution"], "enabled": False}})
    with pytest.raises(ConfigError, match="languages"):
        Rewindbox(server.url, languages={"bash": {"package": "sh"}})


def test_limits_hold_there(server):
    """What is set here is over what the server has, and never more than that."""
    with Rewindbox(server.url, token=server.token, limits={"wall_s": 0.3}) as box:
        assert box.vm("limited").execute("bash", "sleep 100").ended == "timeout"
        with pytest.raises(Refused, match="memory_mib"):
            box.vm("limited").execute("bash", "true", limits=Limits(memory_mib=1 << 30))


def test_an_agents_token_is_its_agent(server):
    """Without saying who runs, it is the token's agent; another one's vms are not there."""
    Rewindbox(server.url, token=server.token)
    token = Tokens(str(server.store)).create("hers", "ann")
    with Rewindbox(server.url, token=server.token) as all_of_it, Rewindbox(server.url, token=token) as hers:
        all_of_it.vm("not-hers")
        done = hers.vm("hers").execute("bash", "echo 1")
        assert done.agent_id == "ann"
        names = {record.name for record in hers.vms()}
        assert "hers" in names and "not-hers" not in names
        assert {entry.agent_id for entry in hers.export()} == {"ann"}
        with pytest.raises(RewindboxError, match="not-hers"):
            hers.vm("not-hers", create=False)


def test_a_token_in_the_environment(server, monkeypatch):
    """It is used where none is given, and no setting of the engine."""
    monkeypatch.setenv("REWINDBOX_TOKEN", str(server.token))
    monkeypatch.setenv("REWINDBOX_SERVER", server.url)
    with Rewindbox(server.url) as box:
        assert box.vms() == box.vms()
    assert not isinstance(AsyncRewindbox(), RemoteBox)


def test_without_httpx_it_says_what_to_install(monkeypatch):
    """The extra is named."""
    import sys

    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r"rewindbox\[client\]"):
        Rewindbox("http://localhost:1")


def test_an_agent_has_no_more_vms_than_it_may(tmp_path):
    """One more is refused by name, also as the vm of a run; another agent and a removed vm make no difference to it."""
    with Served(tmp_path / "store", VMS_PER_AGENT="1") as server:
        tokens = Tokens(str(server.store))
        with Rewindbox(server.url, token=tokens.create("a", "ann")) as ann:
            first = ann.vm("first")
            with pytest.raises(TooManyVms, match="agent 'ann' has 1 vms, of at most 1"):
                ann.vm("second")
            with Rewindbox(server.url, token=tokens.create("b", "bob")) as bob:
                bob.vm("other")
            with server.client(tokens.create("c", "ann")) as client:
                answer = client.post("/v1/runs", json={"text": "```bash\ntouch x\n```", "vm": "second"})
                assert (answer.status_code, answer.json()["code"]) == (409, "too_many_vms")
            first.remove()
            assert ann.vm("second").name == "second"
    remove(tmp_path / "store")
