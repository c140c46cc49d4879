"""Runs over real vms: which blocks of an answer are run, in which order, and which become files."""

import pytest
from boxes import ANSWER, collected

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("on_failure", ["stop", "continue", "rollback"])
async def test_blocks_of_an_answer(box, on_failure):
    """Blocks run in document order in one vm; a failure stops, is passed over, or is undone first."""
    decisions = []
    done = await collected(
        box,
        ANSWER,
        vm="one",
        on_failure=on_failure,
        on_decision=lambda number, d: decisions.append((number, d.skipped)),
    )
    assert [execution.exit_code for execution in done] == ([0, 2] if on_failure == "stop" else [0, 2, 0])
    assert [execution.stdout for execution in done][:2] == ["one\n", ""]
    if on_failure != "stop":
        assert done[2].stdout == ("three\nf\n" if on_failure == "continue" else "three\n")
        assert [number for number, _ in decisions] == [1, 2, 3, 4]
        assert [bool(skipped) for _, skipped in decisions] == [False, False, True, False]
    assert {execution.vm_id for execution in done} == {(await box.vm("one")).id}
    assert (done[1].rolled_back_to is not None) == (on_failure == "rollback")
    assert [entry.id for entry in (await box.history(vm="one")).entries][::-1] == [execution.id for execution in done]


FILES = """
**`shop/price.py`**

```python
def price(item): return {"tea": 4}[item]
```

Save this as `main.py`:

```python
from shop.price import price
print(price("tea"))
```

```html
<p>not named, not run</p>
```

Save this as `data.json`:

```json
{"a": "\u00e9"}
```

Then run it:

    python3 main.py

```console
$ cat data.json
{"a": "?"}
$ ls shop/price.py
shop/price.py
```
"""


async def test_files_of_an_answer_are_written_and_its_commands_run(box):
    """Blocks that are files are written in their turn, commands run on them, of a console only what was typed."""
    vm = await box.vm("one")
    told = []
    ran = [ex async for ex in box.run(FILES, vm, on_decision=lambda number, decision: told.append(decision))]
    assert [decision.path for decision in told] == ["shop/price.py", "main.py", None, "data.json", None, None]
    assert [ex.stdout for ex in ran] == ["4\n", '{"a": "\u00e9"}\nshop/price.py\n']
    assert (await vm.read("main.py")).decode().startswith("from shop.price")


async def test_a_file_that_cannot_be_written_is_skipped(box):
    """The run goes on, and says why; a path from the root on is the vm's, where it can be written to."""
    vm = await box.vm("one")
    await vm.execute("bash", "mkdir data.json; touch file")
    paths = ("data.json", "file/data.txt", "/usr/data.txt", "/proc/1/data.txt", "C:\\data.txt", "/srv/app/data.txt")
    text = "".join(f"{path}\n```json\n1\n```\n" for path in paths) + "```bash\ncat /srv/app/data.txt\n```"
    told = []
    ran = [ex async for ex in box.run(text, vm, on_decision=lambda number, decision: told.append(decision))]
    assert [ex.stdout for ex in ran] == ["1\n"]
    assert [(decision.path, decision.skipped[:11]) for decision in told[:5]] == [(None, "not written")] * 5
    assert told[5].path == "/srv/app/data.txt"
