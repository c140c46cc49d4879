"""The types are those of terraphim_multi_agent 1.0.0: names, fields, defaults, JSON, texts.

`seed.json` is derived from its text (`parsed`); where the text is at hand, they are compared.
"""

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rewindbox import errors, models
from rewindbox.models import VmExecutionError

DATA = Path(__file__).with_name("seed.json")
SEED = json.loads(DATA.read_text())
SAMPLES = {
    **{"String": "x", "bool": True, "u32": 1, "u64": 1, "usize": 1, "i32": -1, "f64": 0.5},
    **{"DateTime<Utc>": "2026-01-02T03:04:05.000006Z", "serde_json::Value": {"any": [None, 1]}},
}
WRONG = {
    **{"String": 1, "bool": "true", "u32": "1", "u64": -1, "usize": 0.5, "i32": 2**31, "f64": "0.5"},
    "DateTime<Utc>": "2026-01-02T03:04:05",
}
FIELDS = [(name, field) for name, struct in SEED["structs"].items() for field in struct]


def parsed(text: str) -> dict:
    """Structs (field -> type, and default where one is given) and errors (variant -> type and text) of a Rust text."""
    structs = {
        name: {field: {"type": kind} for field, kind in re.findall(r"pub (\w+): (.+),$", body, re.MULTILINE)}
        for name, body in re.findall(r"pub struct (\w+) \{(.*?)\n\}", text, re.DOTALL)
    }
    for name, body in re.findall(r"impl Default for (\w+) \{.*?Self \{\n(.*?)\n        \}", text, re.DOTALL):
        for field, value in re.findall(r"(\w+): (vec!\[.*?\]|[^,]+),", body, re.DOTALL):
            structs[name][field]["default"] = literal(value)
    variants = dict(re.findall(r"^    (\w+)\((\w+)\),$", text, re.MULTILINE))
    texts = dict(re.findall(r'VmExecutionError::(\w+)\(\w+\) => \{?\s*write!\(f, "([^"]+)"', text))
    return {"structs": structs, "errors": {name: {"type": variants[name], "text": texts[name]} for name in variants}}


def literal(value: str):
    if value.startswith("vec!"):
        return re.findall(r'"([^"]*)"', value)
    if value.endswith("::default()"):
        return value
    return json.loads(value.removesuffix(".to_string()"))


def optional(kind: str) -> str | None:
    """The type inside an Option; None where it is none."""
    found = re.fullmatch(r"Option<(.+)>", kind)
    return found[1] if found else None


def strategy(kind: str):
    """Any value of a Rust type, as JSON has it."""
    if inner := optional(kind):
        return st.none() | strategy(inner)
    if found := re.fullmatch(r"Vec<(.+)>", kind):
        return st.lists(strategy(found[1]), max_size=2)
    if kind in SEED["structs"]:
        return instances(kind)
    return {
        "String": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        "bool": st.booleans(),
        "u32": st.integers(1, 2**32 - 1),
        "u64": st.integers(1, 2**64 - 1),
        "usize": st.integers(1, 2**64 - 1),
        "i32": st.integers(-(2**31), 2**31 - 1),
        "f64": st.floats(0, 1, exclude_min=True),
        "DateTime<Utc>": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        "serde_json::Value": st.dictionaries(st.text(max_size=3), st.none() | st.integers(0, 9), max_size=2),
    }[kind]


def instances(name: str):
    """Any JSON of a struct."""
    fields = {field: strategy(about["type"]) for field, about in SEED["structs"][name].items()}
    if name == "HistoryConfig":
        fields["integration_mode"] = st.sampled_from(["http", "direct"])
    return st.fixed_dictionaries(fields)


def sample(name: str) -> dict:
    """One JSON of a struct."""
    found = {}
    for field, about in SEED["structs"][name].items():
        kind = optional(about["type"]) or about["type"]
        if inner := re.fullmatch(r"Vec<(.+)>", kind):
            found[field] = [sample(inner[1]) if inner[1] in SEED["structs"] else SAMPLES[inner[1]]]
        else:
            found[field] = sample(kind) if kind in SEED["structs"] else SAMPLES[kind]
    return found | ({"integration_mode": "direct"} if name == "HistoryConfig" else {})


def test_the_data_file_is_what_the_text_says():
    """`seed.json` agrees with the original's text."""
    folder = os.environ.get("REWINDBOX_TEST_DATA")
    path = Path(folder or "/nonexistent").parent / "spec" / "seed-models.txt"
    if not path.exists():
        pytest.skip(f"no {path}")
    assert parsed(path.read_text()) == SEED


def test_nothing_of_the_text_was_overlooked():
    """Sixteen structs, fourteen errors."""
    assert (len(SEED["structs"]), len(SEED["errors"])) == (16, 14)
    assert all(SEED["structs"].values())


@pytest.mark.parametrize("name", SEED["structs"])
def test_a_model_has_every_field_in_order(name):
    """Names and order of the fields; more may follow."""
    fields = list(getattr(models, name).model_fields)
    assert fields[: len(SEED["structs"][name])] == list(SEED["structs"][name])


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_field_says_what_it_means(name, field):
    """A field without a meaning is a field that somebody guesses."""
    assert getattr(models, name).model_fields[field].description


@pytest.mark.parametrize(("name", "field"), [(n, f) for n, f in FIELDS if "default" in SEED["structs"][n][f]])
def test_defaults_are_those_of_the_original(name, field):
    """What is left out has the original's default."""
    value = getattr(getattr(models, name)(), field)
    default = SEED["structs"][name][field]["default"]
    assert value == (models.HistoryConfig() if default == "HistoryConfig::default()" else default)


@pytest.mark.parametrize("name", SEED["structs"])
@given(data=st.data())
def test_json_goes_round(name, data):
    """What the original may write is read, and written again as it was."""
    value = data.draw(instances(name))
    model = getattr(models, name)
    read = model.model_validate_json(json.dumps(value))
    assert model.model_validate_json(read.model_dump_json()) == read == model.model_validate(read.model_dump())
    assert set(json.loads(read.model_dump_json())) == set(value)


@pytest.mark.parametrize("name", SEED["structs"])
def test_json_is_written_as_it_was_read(name):
    """Keys and values alike, times with a Z."""
    value = sample(name)
    assert json.loads(getattr(models, name).model_validate_json(json.dumps(value)).model_dump_json()) == value


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_a_missing_optional_is_null_and_others_are_required(name, field):
    """As the original reads JSON, save where a default is as good."""
    about = SEED["structs"][name][field]
    value = {key: other for key, other in sample(name).items() if key != field}
    model = getattr(models, name)
    if optional(about["type"]):
        assert getattr(model.model_validate(value), field) is None
    elif "default" not in about and field != "requirements":
        with pytest.raises(ValidationError, match=field):
            model.model_validate(value)


@pytest.mark.parametrize(
    ("name", "field"),
    [(n, f) for n, f in FIELDS if (optional(SEED["structs"][n][f]["type"]) or SEED["structs"][n][f]["type"]) in WRONG],
)
def test_the_wrong_type_is_named(name, field):
    """A value of another type is refused, by the field's name; nothing is converted."""
    kind = SEED["structs"][name][field]["type"]
    with pytest.raises(ValidationError, match=field):
        getattr(models, name).model_validate_json(json.dumps(sample(name) | {field: WRONG[optional(kind) or kind]}))


def test_a_time_beyond_the_calendar_is_refused():
    """A time that UTC cannot write is the sender's error, not a crash of ours."""
    with pytest.raises(ValidationError, match="created_at"):
        models.VmInstance.model_validate(sample("VmInstance") | {"created_at": "9999-12-31T23:59:59-23:00"})


@pytest.mark.parametrize("kind", SEED["errors"])
def test_errors_have_the_text_and_the_json_of_the_original(kind):
    """One key, the variant; and the text that the original shows; as an exception and back."""
    about = SEED["errors"][kind]
    detail = 5000 if about["type"] == "u64" else "this"
    wire = VmExecutionError.model_validate_json(json.dumps({kind: detail}))
    assert str(wire) == str(wire.as_error()) == re.sub(r"\{\}", str(detail), about["text"])
    assert VmExecutionError.of(wire.as_error()) == wire
    assert json.loads(wire.model_dump_json()) == {kind: detail}


def test_every_error_of_ours_is_one_of_the_fourteen():
    """Whatever we raise can be written as the original's; the text is kept."""
    for error in (thing for thing in vars(errors).values() if isinstance(thing, type) and hasattr(thing, "code")):
        made = error(7) if error is errors.Timeout else error("this", remedy="that")
        wire = VmExecutionError.of(made)
        assert wire.kind in SEED["errors"]
        assert error is errors.Timeout or str(wire).endswith("this; that")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"Timeout": 1, "Internal": "x"},
        {"Nothing": "x"},
        {"Timeout": "1"},
        {"Timeout": -1},
        {"Internal": 1},
        [],
        "x",
    ],
)
def test_what_is_no_error_is_refused(value):
    """A foreign name or a wrong value is a ValidationError."""
    with pytest.raises(ValidationError):
        VmExecutionError.model_validate_json(json.dumps(value))
