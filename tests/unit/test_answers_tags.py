"""Code in no fence of an answer: in tags and calls of agents, within and beside thoughts."""

import time

import pytest
from answers import becomes, fence

from rewindbox.extraction import blocks


@pytest.mark.parametrize("name", ["code_interpreter", "tool_code", "run_python", "python_code", "execute_python"])
def test_the_tags_of_agents(name):
    """Each has code for python."""
    assert becomes(f"I look.\n\n<{name}>\nprint(1)\n</{name}>\n") == ["R python print(1)"]


@pytest.mark.parametrize("given", ["arguments", "parameters", "input"])
def test_a_call_in_json(given):
    """What it gives has one of three names."""
    assert becomes(f'<tool_call>\n{{"name": "bash", "{given}": {{"command": "ls"}}}}\n</tool_call>') == ["R bash ls"]


SPACE = "antml" + ":"
INVOKED = "<Xinvoke name='bash'>#<Xparameter name='command'>ls</Xparameter>#</Xinvoke>".replace("#", "\n")


@pytest.mark.parametrize(
    "text",
    [
        '<tool_calls>#[{"name": "bash", "arguments": {"command": "ls"}}]#</tool_calls>',
        '<function_call>{"function": {"name": "bash", "arguments": "{\\"command\\": \\"ls\\"}"}}</function_call>',
        "<tool_call>#<function=bash>#<parameter=command>#ls#</parameter>#</function>#</tool_call>",
        "<execute_command>#<command>ls</command>#<requires_approval>false</requires_approval>#</execute_command>",
        *(INVOKED.replace("X", ""), INVOKED.replace("X", SPACE)),
        *('<execute language="bash">#ls#</execute>', '<action type="shell">#ls#</action>'),
        '<artifact id="a" title="b">#<action type="shell">#ls#</action>#</artifact>',
        *("Thought: x#Action: bash#Action Input: ls#Observation: a", "Action: bash#Action Input: `ls`"),
        *(
            '[bash(command="ls")]',
            "I look.#[bash(timeout=3, command='ls')]#",
            "<|channel|>final to=bash<|message|>ls<|call|>",
        ),
        "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary to=functions.bash "
        '<|constrain|>json<|message|>{"command": "ls"}<|call|>',
        'Action: bash#Action Input: "ls"#',
        'Action: search#Action Input: x#Observation: y#Action: bash#Action Input: {"command": "ls"}#Thought: z',
    ],
)
def test_more_calls_of_agents(text):
    """Each gives one command to a shell."""
    assert becomes(text.replace("#", "\n")) == ["R bash ls"]


@pytest.mark.parametrize(
    ("given", "code"), [("x = 'a'", "x = 'a'"), ("`print(1)`", "print(1)"), ("'a' + 'b'", "'a' + 'b'")]
)
def test_what_an_action_is_given(given, code):
    """Quotation marks around all of it are none of the code's; others are."""
    assert becomes(f"Action: python\nAction Input: {given}\nObservation: x") == [f"R python {code}"]
    assert becomes(f"<|python_tag|>{given}<|eom_id|>") == [f"R python {code}"]


@pytest.mark.parametrize(
    "text",
    [
        *('<file path="src/a.py">#print(1)#</file>', "<action type='file' filePath='src/a.py'>#print(1)#</action>"),
        "<write_to_file>#<path>src/a.py</path>#<content>#print(1)#</content>#</write_to_file>",
        '<file path="src/a.py">#```python#print(1)#```#</file>',
    ],
)
def test_a_tag_that_names_a_file(text):
    """It is written, whatever comes after it."""
    assert becomes(text.replace("#", "\n")) == ["W src/a.py"]


@pytest.mark.parametrize(
    "text",
    [
        '<script language="javascript">#alert(1)#</script>',
        '<form>#<input name="a.py" type="text">#</form>',
        "Action: search#Action Input: ls",
        *("[search(command='ls')]", "[bash](command=1)", "[bash(command=f'{x}')]", "[bash(command='ls)]", "[bash(x)]"),
        '<tool_call>{"name": "search", "arguments": {"code": "x"}}</tool_call>',
        '<file path="">#x#</file>',
        "<tool_calls>[1, 2]</tool_calls>",
    ],
)
def test_other_tags_have_no_code(text):
    """Those of a page, and calls of tools that are none of ours."""
    assert becomes(text.replace("#", "\n")) == []


def test_a_fence_within_the_tag_of_an_answer():
    """Where tags stand on the lines of the fence."""
    assert becomes("<answer>```python\nprint(1)\n```</answer>\n") == ["R python print(1)"]


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        *(("<reasoning>", "</reasoning>"), ("<thought>", "</thought>"), ("<scratchpad>", "</scratchpad>")),
        *(("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>")),
    ],
)
def test_thoughts_have_no_code(opening, closing):
    """Whatever a model writes around them; and where they do not end, there is no answer."""
    thought = f"{opening}\n{fence('bash', 'rm x')}"
    assert becomes(f"{thought}{closing}\n{fence('bash', 'ls')}") == ["R bash ls"]
    assert becomes(thought) == []


def test_tags_that_nothing_closes():
    """However many different ones there are, the text is looked through a bounded number of times."""

    def took(count):
        text = "".join(f'<a{number} path="a.py">\n' for number in range(count)) + "</a>"
        begun = time.process_time()
        assert blocks(text) == []
        return time.process_time() - begun

    took(100)
    assert took(40_000) < 12 * took(10_000) + 0.1
