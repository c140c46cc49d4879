"""The original's request to find and run the code of an answer, over real vms."""

import pytest

from rewindbox.door import Rewindbox
from rewindbox.errors import ConfigError, InvalidArgument
from rewindbox.models import ParseExecuteRequest, ParseExecuteResponse

pytestmark = pytest.mark.anyio

ANSWER = (
    "Please run this:\n```bash\necho 1 > a\n```\n```sql\nselect 1\n```\n"
    "Run it:\n```python\nprint(open('a').read())\n```"
)


def fields(text=ANSWER, **changed):
    return {"agent_id": "ann", "llm_response": text, "auto_execute": True, "auto_execute_threshold": 0.0, **changed}


async def test_blocks_run_in_order_in_one_vm(box):
    """Results come in the order of the document, from the agent's one vm; what is refused is named."""
    answer = await box.parse_execute(ParseExecuteRequest(**fields()))
    assert [block.language for block in answer.code_blocks] == ["bash", "sql", "python"]
    assert [(result.exit_code, result.stdout) for result in answer.execution_results] == [(0, ""), (0, "1\n\n")]
    assert answer.errors == ["block 2 (sql): sql is not run"]
    page = await box.history("agent-ann")
    assert [entry.id for entry in page.entries] == [result.execution_id for result in answer.execution_results[::-1]]
    assert {entry.agent_id for entry in page.entries} == {"ann"}
    assert ParseExecuteResponse.model_validate_json(answer.model_dump_json()) == answer


async def test_the_next_request_finds_the_files_of_the_last(box):
    """An agent's vm stays its own; another agent's has none of its files."""
    await box.parse_execute(**fields("```bash\necho 1 > kept\n```"))
    again = await box.parse_execute(**fields("```bash\ncat kept\n```"))
    other = await box.parse_execute(**fields("```bash\ncat kept\n```", agent_id="a/b: c"))
    assert [result.stdout for result in again.execution_results] == ["1\n"]
    assert [result.exit_code for result in other.execution_results] == [1]


async def test_without_auto_execute_nothing_runs(box):
    """Blocks are found, nothing is run, no vm is made."""
    answer = await box.parse_execute(fields(auto_execute=False))
    assert (len(answer.code_blocks), answer.execution_results, answer.errors) == (3, [], [])
    assert await box.vms() == []


async def test_the_threshold_holds(box):
    """What is less sure than the threshold does not run and is no error."""
    answer = await box.parse_execute(
        fields("```bash\necho no\n```\n\nPlease run this:\n```bash\necho yes\n```\n", auto_execute_threshold=0.75)
    )
    sure = [block for block in answer.code_blocks if block.execution_confidence >= 0.75]
    assert len(sure) == len(answer.execution_results)
    assert answer.errors == []


@pytest.mark.parametrize(("request_text", "runs"), [(None, 0), ("run it for me", 1), ("do not run it", 0)])
async def test_what_the_user_asked_for_counts(box, request_text, runs):
    """A block that is not sure enough alone runs where the user asked for it, whoever gives the request."""
    asked = fields("```bash\necho 1\n```", auto_execute_threshold=0.6)
    answer = await box.parse_execute({**asked, "request": request_text})
    again = await box.parse_execute(**asked, request=request_text)
    assert [len(each.execution_results) for each in (answer, again)] == [runs, runs]


@pytest.mark.parametrize(("on_failure", "codes"), [("stop", [3]), ("continue", [3, 0]), ("rollback", [3, 1])])
async def test_what_follows_a_failure_can_be_chosen(box, on_failure, codes):
    """After a block that fails none, all, or all without what it wrote; the failure is among the errors."""
    text = "```bash\ntouch a; exit 3\n```\n```bash\ntest -e a\n```\n"
    answer = await box.parse_execute(fields(text), on_failure=on_failure)
    assert [result.exit_code for result in answer.execution_results] == codes
    assert answer.errors[0] == "block 1 (bash): exit code 3"


async def test_a_request_may_allow_less(box):
    """`vm_config` takes a language or length away, and adds none."""
    less = await box.parse_execute(fields(vm_config={"allowed_languages": ["python", "cobol"]}))
    assert less.errors[0] == "block 1 (bash): bash is not allowed; add it to allowed_languages"
    short = await box.parse_execute(fields(vm_config={"max_code_length": 12}))
    assert short.execution_results == []
    assert "block 3" in short.errors[0] and "maximum length of 12" in short.errors[0]
    long = await box.parse_execute(fields(f"```bash\n#{'x' * 10_000}\n```", vm_config={"max_code_length": 20_000}))
    assert "maximum length of 10000" in long.errors[0]


async def test_code_that_nothing_can_run_is_an_error_of_the_answer(box):
    """A block that is not acceptable is named, and stops all before any."""
    answer = await box.parse_execute(fields("```bash\ntouch a\n```\n```python\n'\ud800'\n```\n"))
    assert answer.execution_results == []
    assert "block 2 has a lone surrogate" in answer.errors[0]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"auto_execute_threshold": 1.5}, InvalidArgument),
        ({"llm_response": 3}, InvalidArgument),
        ({"vm_config": {"vm_pool_size": 3}}, InvalidArgument),
        ({"vm_config": {"max_code_length": "long"}}, ConfigError),
    ],
)
async def test_wrong_input_changes_nothing(box, changed, error):
    """A field of the wrong type or out of range is named; no vm is made."""
    with pytest.raises(error):
        await box.parse_execute(fields(**changed))
    with pytest.raises(InvalidArgument, match="on_failure"):
        await box.parse_execute(fields(), on_failure="retry")
    assert await box.vms() == []


async def test_a_file_is_written_before_what_needs_it(box):
    """A block that is the content of a file is no execution and no error; what comes after finds it."""
    text = "Save this as `app.py`:\n\n```python\nprint('hi')\n```\n\nThen:\n\n```bash\npython3 app.py\n```\n"
    answer = await box.parse_execute(fields(text))
    assert [result.stdout for result in answer.execution_results] == ["hi\n"]
    assert answer.errors == []


def test_without_await(store):
    """The synchronous door gives the same."""
    with Rewindbox(store) as box:
        vm = box.vm("mine")
        answer = box.parse_execute(fields("```python\nprint(1)\n```"), vm=vm)
        assert [(result.stdout, result.vm_id) for result in answer.execution_results] == [("1\n", vm.id)]
