"""Whether a text asks for its code to be run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindbox.intent import detect_execution_intent, words

ASKED = [
    ("Please run this code and show me the output", 0.6),
    ("Execute the following script", 0.3),
    ("Can you run this and tell me what happens?", 0.6),
    ("Test this code for me", 0.3),
    ("Try running this function", 0.3),
    ("Please run this code and see what happens", 0.51),
    ("Please run this code. Don't worry, it is safe.", 0.6),
    ("Could you try this out and test it?", 0.6),
    ("Run this Python script:\n```python\nprint(1)\n```", 0.4),
    ("Launch the following three shell commands", 0.3),
    ("Give it a spin", 0.3),
    ("Why don't you run this?", 0.3),
    ("I can't see it, however, run this", 0.3),
    ("Can we run this now?", 0.3),
    ("Bitte führe den Code aus.", 0.3),
    ("Exécutez ce script, s'il vous plaît.", 0.3),
    ("Ejecuta este código", 0.3),
    ("请运行这段代码", 0.3),
    ("このコードを実行してください", 0.3),
    ("Запустите этот код", 0.3),
]
NOT_ASKED = [
    "",
    "Here's some example code for reference",
    "This is how you would write it",
    "The implementation looks like this",
    "Consider this approach",
    "please do not execute this",
    "Please don't run this code",
    "Don’t run this on your machine",
    "You should never execute this.",
    "There is no need to execute the script.",
    "You don't have to run this",
    "I will not be able to test it",
    "Instead of running it, read it",
    "Read it without trying to run it",
    "Avoid executing it. To run this is not needed",
    "You can't run this yet",
    "Do not, under any circumstances, run this script",
    "I wouldn't run this if I were you",
    *("How do I run this?", "Should I run this?", "Is it safe to run this?", "Não execute este código"),
    "functions execute in order",
    "JavaScript engines execute this lazily.",
    "How to run it: see the docs",
    "The country entry in the runtime table",
    "Executed commands are in the log",
    'He said "please run this".',
    "> please run this\n\nNo.",
    "`run this` is the label of the button",
    "```bash\necho please run this, can you run it\n```",
    "Führe das nicht aus.",
    "N'exécutez pas ce script",
    "No ejecutes ni intentes ejecutar esto",
    "不要运行这段代码",
    "実行しないでください",
    "Не запускайте и не пытайтесь запустить этот код",
]


@pytest.mark.parametrize(("text", "least"), ASKED)
def test_who_asks_is_heard(text, least):
    """A request counts, in several wordings and languages, and the words that made it are told."""
    found = detect_execution_intent(text)
    assert found.confidence >= least
    assert found.trigger_keywords


@pytest.mark.parametrize("mark", ["`", "~", "> ", ">`"])
def test_a_line_of_marks_is_read_once(mark):
    """As many as a text may have, without an end of line; a minute where each is read again for each."""
    assert not detect_execution_intent(mark * (200_000 // len(mark))).trigger_keywords


@pytest.mark.parametrize("text", NOT_ASKED)
def test_who_does_not_ask_is_not_heard(text):
    """Talk of code, a prohibition, a quotation, code itself and parts of longer words are no request."""
    found = detect_execution_intent(text)
    assert found.confidence < 0.3
    assert found.suggested_action in ("none", "show only")
    assert not found.trigger_keywords


@pytest.mark.parametrize(
    ("text", "confidence", "action"),
    [
        ("Please run this code and then execute this", 1.0, "auto-execute"),
        ("Please run this", 0.6, "ask user"),
        ("run it", 0.3, "show only"),
        ("What happens if x is 0?", 0.2, "none"),
        ("Does this work? Is this correct?", 0.4, "show only"),
        ("Here's the fix", 0.2, "none"),
        ("I have a test for this function", 0.15, "none"),
        ("```python\nx\n```", 0.1, "none"),
    ],
)
def test_the_sum_and_its_thresholds(text, confidence, action):
    """Weights and thresholds are those of the original."""
    found = detect_execution_intent(text)
    assert (found.confidence, found.suggested_action) == (confidence, action)


def test_a_prohibition_wins():
    """Who says both wants it not to run; the reason is among the clues."""
    found = detect_execution_intent("You can run it like this. Please do not run this code here, never execute this.")
    assert found.suggested_action == "none"
    assert [clue for clue in found.context_clues if clue.startswith("not: ")]


def test_a_way_of_running_is_forbidden_not_running():
    """What must not be done as root or in production may be done otherwise."""
    assert detect_execution_intent("Run it locally. Do not run it in production.").confidence == 0.3


@pytest.mark.parametrize(
    ("request_", "confidence"),
    [
        (None, 0.4),
        ("What is a closure?", 0.2),
        ("Please run this for me", 1.0),
        ("Show me how, but don't run it", 0.2),
    ],
)
def test_the_user_decides(request_, confidence):
    """What the user has asked for adds to what the answer says of itself, bounds it, or halves it."""
    text = "You can run it:\n```python\nprint(1)\n```"
    assert detect_execution_intent(text, request=request_).confidence == confidence


@given(st.text() | st.text("run execute this it don't\n`> "))
def test_any_text_has_an_intent(text):
    """Between 0 and 1, whatever the text and the request; never an exception."""
    assert 0.0 <= detect_execution_intent(text, request=text[::-1]).confidence <= 1.0


@pytest.mark.parametrize(
    "piece", ["run this ", "do not run this\n", "```\n", "`", "    \n", '"', "> a\n", "请运行", "run  "]
)
def test_a_huge_text_is_read_at_its_ends(piece):
    """A request at the end of two million characters is found."""
    assert "run it" in words(piece * (2_000_000 // len(piece)) + "\n\nnow run it").asking or piece in (
        "```\n",
        "`",
        '"',
    )
