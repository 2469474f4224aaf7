"What a stranger reads and types before there is something to see; `make first-steps` does it with a clock."

import json

import pytest
from conftest import TOP
from first_steps import blocks, command_of, way, words, words_before

PAGE = """# A lab
Two words, [a link](https://example.org/of/many/words) and `code`. <!-- not read -->

![no words](a.png)

```
make install                # once
source .venv/bin/activate
cvlab data check ~/photos
cvlab train --data ~/photos --out ~/run
cvlab predict --run ~/run ~/photos
```

```python
no_shell()
```
"""


def test_words_are_what_is_read():
    assert (
        words("Two words, [a link](https://example.org/x) <!-- hidden --> ![alt](b.png) it's 0.5")
        == 6
    )
    assert words_before(PAGE) == dict(words_to_command=8, words_to_image=8)
    assert words_before("Nothing here.") == dict(words_to_command=None, words_to_image=None)
    assert len(list(blocks(PAGE))) == 1


def test_a_command_is_typed_once():
    assert way(PAGE) == [
        ("git clone", "not on the page"),
        ("make install", ""),
        ("source .venv/bin/activate", ""),
        ("cvlab data check ~/photos", ""),
        ("cvlab train --data ~/photos --out ~/run", ""),
    ]
    assert command_of(PAGE, "make docs") == ""
    with pytest.raises(SystemExit, match="no block of commands trains"):
        way(PAGE.replace("~/photos", "~/x"))


def test_the_record_is_of_this_readme():
    "`make first-steps ARGS=--install` writes it; a README with other words or commands has to be walked again."
    readme, record = (
        (TOP / "README.md").read_text(),
        json.loads((TOP / "runs/bench/first_steps.json").read_text()),
    )
    assert [s["command"] for s in record["steps"]] == [command for command, _ in way(readme)]
    assert {k: record[k] for k in words_before(readme)} == words_before(readme) and record[
        "words_to_image"
    ] < 100
    assert (
        record["installed"]
        and record["minutes"] < 10
        and record["commands"] == len(record["steps"])
    )
