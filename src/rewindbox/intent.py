"""Whether a text asks for its code to be run, how surely, and by which words.

Pure: no I/O, no clock. What the original counts is counted: thirteen phrases, six questions, a few clues, with its
weights and its thresholds. Where it counts letters, here a phrase is words, and somebody has said them: not the code,
nor a quotation, nor a sentence that says not to.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from rewindbox.models import ExecutionIntent

PHRASES = (
    *("run this", "execute", "try this", "test this code", "run the code", "execute the script", "try running"),
    *("can you run", "please run", "execute this", "run it", "test it", "give it a try"),
)
"""The original's words for a request, 0.3 each."""
QUESTIONS = (
    *("what happens if", "what would this do", "does this work", "will this run", "can this execute"),
    "is this correct",
)
"""The original's words for a question that running would answer, 0.2 each."""
OFFERS = ("here's the fix", "try this instead")
"""A correction is offered to be tried: 0.2."""

_REQUEST, _QUESTION, _OFFER, _TEST, _CODE = 0.3, 0.2, 0.2, 0.15, 0.1
_PROHIBITION = 0.6
"""Takes away two requests: "please run this" is two phrases."""
_AUTO, _ASK, _SHOW = 0.8, 0.5, 0.2
_MAX_CHARS = 200_000
"""Of a longer text the two ends are read, half of this each: a request is said first or last."""
_KNOWN = tuple((phrase, re.compile(rf"\b{re.escape(phrase)}\b")) for phrase in (*PHRASES, *QUESTIONS, *OFFERS))
_MOST = 100
"""Of each phrase so many are looked at."""
_NEAR_CHARS = 60
"""So far before a phrase a word may stand that turns it around."""

_FENCED = re.compile(r"^[ \t>]*+(`{3,}+|~{3,}+)[^\n]*+\n.*?(?:^[ \t>]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)(`{1,2})(?!`)[^`\n]{1,300}\1(?!`)")
_INDENTED = re.compile(r"^(?: {4}|\t)[^\n]*\S", re.MULTILINE)
_QUOTED = re.compile(r"[\"“«][^\"“”«»\n]{1,300}[\"”»]|^[ \t]*>[^\n]*$", re.MULTILINE)
_BLANKS = re.compile(r"[ \t]+")
_SENTENCE_END = re.compile(r"[.!?;:\n](?=\s|$)|[。！？]")

_OBJECT = r"(?:this|these|the|that|those|my|your|our|it|each|all|both|following)"
_KIND = (
    r"(?:code|scripts?|programs?|snippets?|functions?|commands?|examples?|blocks?|files?|tests?|cells?|queries|query)"
)
_ASKING = re.compile(
    rf"\b(?:run|execute|try|test|launch|evaluate)\s+(?:out\s+)?{_OBJECT}(?:\s+[\w+#.-]+){{0,3}}?\s+{_KIND}\b"
    r"|\b(?:run|execute|launch)\s+(?:this|it|these|them)\b"
    r"|\bgive\s+(?:it|this)\s+a\s+(?:try|run|go|spin)\b"
)
"""A request in other words than the thirteen."""

_NOT_BEFORE = re.compile(
    r"\b(?:do\s+not|don'?t|dont|never|cannot|can'?t|must\s+not|mustn'?t|should\s+not|shouldn'?t"
    r"|need\s+not|needn'?t|not\s+to|not|without|avoid|refrain\s+from|instead\s+of|rather\s+than|no\s+need\s+to"
    r"|unable\s+to|won'?t|will\s+not|wouldn'?t|would\s+not|stop|não|nao)\s+(?:\w+\s+){0,3}$"
)
_NOT_ASIDE = re.compile(r"\b(?:do\s+not|don'?t|never|not)\s*,[^,]{1,40},\s*$")
"""Said in between: `do not, whatever happens, run it`."""
_NOT_ASKING = re.compile(r"\b(?:why|if)\s+(?:you\s+)?(?:do\s+not|don'?t|cannot|can'?t)\s+(?:\w+\s+){0,3}$")
_QUALIFIED = re.compile(
    r"\s*(?:\w+\s+){0,2}(?:as\s+root|in\s+production|on\s+(?:a\s+)?production|twice|again|yet|until|unless)\b"
)
"""What is forbidden is a way of running: neither a request nor a prohibition."""
_MENTIONED = re.compile(
    r"(?:\b(?:(?:how|when|where)\s+(?:do|can|would|should|could)\s+(?:i|we|you|one)|should\s+(?:i|we)|safe\s+to"
    r"|how|when|where|whether|which|that|who|they|it|he|she|will|would|functions?|programs?|threads?|engines?"
    r"|methods?|scripts?|computers?|browsers?|permission\s+to|used|able|time|ways?|order|steps?|entry)\s+(?:to\s+|can\s+)?)$"
)
"""Somebody or something else runs, or it is told how it is done: not a request."""
_NEGATED_AFTER = re.compile(r"\s+(?:\w+\s+){0,3}(?:is|are)\s+not\s+(?:needed|necessary|required|allowed)\b")

_ELSEWHERE = (
    (
        "运行",
        r"(?:请|帮我|帮忙)?(?:运行|执行|跑)(?:一下|这|此|下面|以下|该|代码|脚本|程序)",
        r"(?:不要|别|请勿|无需|不必)",
    ),
    ("実行", r"(?:実行して|実行せよ|動かして)", r"(?:$^)"),
    ("ausführen", r"\b(?:führe|führen\s+sie)\b[^.!?\n]{0,60}\baus\b|\bausführen\b", r"\b(?:nicht|kein\w*|ohne)\b"),
    ("exécuter", r"\b(?:exécute[rz]?|lance[rz]?)\b", r"\b(?:ne|n'|sans)\b"),
    ("ejecutar", r"\b(?:ejecuta|ejecute|ejecutar|ejecútalo)\b", r"\b(?:no|sin)\b"),
    ("executar", r"\b(?:executar|rode|roda)\b", r"\b(?:não|sem)\b"),
    ("запустить", r"\b(?:запусти(?:те|ть)?|выполни(?:те|ть)?)\b", r"\bне\b"),
)
"""Languages of people: name of the keyword, the request, and what before it in its sentence turns it around."""
_FOREIGN = tuple((word, re.compile(asks), re.compile(denies)) for word, asks, denies in _ELSEWHERE)
_NOT_IN_JAPANESE = re.compile(r"実行(?:しないで|せず|するな)")


@dataclass(frozen=True, slots=True)
class Words:
    """What prose says about running: phrases that ask, phrases that forbid, and the clues beside them."""

    asking: tuple[str, ...]
    forbidding: tuple[str, ...]
    clues: tuple[tuple[str, float], ...]

    @property
    def score(self) -> float:
        """See `detect_execution_intent`; not bounded."""
        wanted = _REQUEST * len(self.asking) - _PROHIBITION * len(self.forbidding)
        return wanted + sum(weight for _, weight in self.clues)


def detect_execution_intent(text: str, *, request: str | None = None) -> ExecutionIntent:
    """How sure we are that `text` asks for its code to be run, 0.0 to 1.0, and what to do then.

    The sum, as the original forms it, of 0.3 for each of the phrases (`PHRASES`, and requests of the same kind in
    other words or seven other languages), 0.2 for each question that running answers, 0.2 for a correction that is
    offered, 0.15 for talk of testing a function or script, and 0.1 where there is code. Different is what counts:

    - a phrase is whole words ("entry", "runtime" are none) outside of code, of quotations and of quoted lines;
    - a phrase that is forbidden ("do not", "never", "instead of" before it in its clause, "is not needed" behind it)
      takes 0.6 away: whoever says both wants it not to run. "Not as root" forbids a way of running, and counts nothing;
    - a phrase that tells of something ("functions execute in order", "how to run it") counts nothing;
    - with `request`, what the user has asked for, the user decides: a request that asks adds its own sum, one that
      forbids leaves at most 0.2, and one that does neither halves what the answer says of itself.

    `trigger_keywords` are the phrases that asked, `context_clues` the rest with what speaks against it as
    `not: ...`. `suggested_action` is `auto-execute` above 0.8, `ask user` above 0.5, `show only` above 0.2, else
    `none`. Time is linear; any `str` is acceptable.
    """
    said = words(text)
    score, heard = max(said.score, 0.0), [said]
    if request is not None:
        asked = words(request)
        heard.append(asked)
        score = _with_request(score, asked)
    confidence = round(min(max(score, 0.0), 1.0), 2)
    return ExecutionIntent(
        confidence=confidence,
        trigger_keywords=list(dict.fromkeys(phrase for each in heard for phrase in each.asking)),
        context_clues=[
            *dict.fromkeys(clue for each in heard for clue, _ in each.clues),
            *dict.fromkeys(f"not: {phrase}" for each in heard for phrase in each.forbidding),
        ],
        suggested_action=_action(confidence),
    )


def _with_request(score: float, asked: Words) -> float:
    if asked.forbidding:
        return min(score, _SHOW)
    if asked.asking:
        return score + asked.score
    return score / 2


def _action(confidence: float) -> str:
    for least, action in ((_AUTO, "auto-execute"), (_ASK, "ask user"), (_SHOW, "show only")):
        if confidence > least:
            return action
    return "none"


def words(text: str) -> Words:
    """What `text` says about running its code."""
    if len(text) > _MAX_CHARS:
        text = f"{text[: _MAX_CHARS // 2]}\n{text[-_MAX_CHARS // 2 :]}"
    prose = _prose(text)
    asking, forbidding, clues = [], [], []
    for phrase, start, end in _phrases(prose):
        if phrase in QUESTIONS:
            clues.append((phrase, _QUESTION))
        elif phrase in OFFERS:
            clues.append((phrase, _OFFER))
        elif (verdict := _verdict(prose, start, end)) is True:
            asking.append(phrase)
        elif verdict is False:
            forbidding.append(phrase)
    foreign_asking, foreign_forbidding = _foreign(prose)
    if re.search(r"\btest\b", prose) and re.search(r"\b(?:function|script)s?\b", prose):
        clues.append(("a test of a function or script", _TEST))
    if "```" in text or "~~~" in text or _INDENTED.search(text):
        clues.append(("code", _CODE))
    return Words(
        _once([*asking, *foreign_asking]), _once([*forbidding, *foreign_forbidding]), tuple(dict.fromkeys(clues))
    )


def forbids(prose: str) -> bool:
    """Whether prose beside a block says that it is not to be run."""
    return bool(words(prose).forbidding)


def _once(phrases: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(phrases))


def _prose(text: str) -> str:
    """In lower case, without code and without what others said; a gap is a comma, which keeps clauses apart."""
    for pattern in (_FENCED, _INLINE, _INDENTED, _QUOTED):
        text = pattern.sub(" , ", text)
    return _BLANKS.sub(" ", text.lower().replace("’", "'"))


def _phrases(prose: str) -> Iterator[tuple[str, int, int]]:
    """Each phrase, where it begins and ends. Phrases of the original may overlap; ours count where none of it does."""
    found = []
    for phrase, pattern in _KNOWN:
        for match in islice(pattern.finditer(prose), _MOST) if phrase in prose else ():
            found.append((phrase, match.start(), match.end()))
    known = [(start, end) for _, start, end in found]
    for match in islice(_ASKING.finditer(prose), _MOST):
        if not any(start < match.end() and match.start() < end for start, end in known):
            found.append((" ".join(match[0].split()), match.start(), match.end()))
    return iter(sorted(found, key=lambda each: each[1]))


def _verdict(prose: str, start: int, end: int) -> bool | None:
    """Whether what stands around a phrase lets it ask (True), forbids (False), or only tells of it (None)."""
    before = _clause(prose[max(0, start - _NEAR_CHARS) : start])
    after = prose[end : end + _NEAR_CHARS]
    if _NOT_ASIDE.search(prose, max(0, start - _NEAR_CHARS), start):
        return False
    if _NOT_BEFORE.search(before) and not _NOT_ASKING.search(before):
        return None if _QUALIFIED.match(after) else False
    if _NEGATED_AFTER.match(after):
        return False
    return None if _MENTIONED.search(before) else True


def _clause(before: str) -> str:
    """What of it belongs to the same clause as what follows; a gap where code was keeps the clause."""
    ends = [match.end() for match in _SENTENCE_END.finditer(before)]
    clause = before[ends[-1] :] if ends else before
    return re.split(r"[,–—]|\b(?:but|then|so)\b", clause)[-1].lstrip()


def _foreign(prose: str) -> tuple[list[str], list[str]]:
    asking: list[str] = []
    forbidding: list[str] = []
    for word, asks, denies in _FOREIGN:
        for match in asks.finditer(prose):
            before = prose[max(0, match.start() - _NEAR_CHARS) : match.start()]
            ends = [end.end() for end in _SENTENCE_END.finditer(before)]
            around = before[ends[-1] :] + match[0] if ends else before + match[0]
            (forbidding if denies.search(around) else asking).append(word)
    if _NOT_IN_JAPANESE.search(prose):
        forbidding.append("実行")
    return asking, forbidding
