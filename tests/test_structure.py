"The house: floors, declared dependencies, parameters."
import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
from conftest import TOP, code_cells

from cvlab.core import Params, params_schema, read_yaml
from cvlab.repro import UNHASHED
from cvlab.runs import STAGES

NOTEBOOKS = sorted((TOP/"nbs").glob("[0-9][0-9]_*.ipynb"))
# the others prove something of the library
EXPORTING = [p for p in NOTEBOOKS if "default_exp" in p.read_text()]
NUMBER = {p.stem[3:]: int(p.stem[:2]) for p in EXPORTING}
PIPELINE = sorted(p.stem for p in (TOP/"nbs"/"pipeline").glob("*.ipynb"))


def cvlab_imports(source):
    "Modules of the library that a piece of code imports, absolutely or relatively, anywhere in it."
    for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.M))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.startswith("cvlab."): yield node.module.split(".")[1]
            elif node.level == 1: yield node.module
            elif node.module == "cvlab": yield from (a.name for a in node.names)
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1]
                        for a in node.names if a.name.startswith("cvlab."))


def closure(modules):
    "Those modules and everything of the library that they import."
    todo, seen = set(modules), set()
    while todo:
        m = todo.pop()
        seen.add(m)
        todo |= set(cvlab_imports((TOP/"cvlab"/f"{m}.py").read_text())) - seen
    return seen


@pytest.mark.parametrize("name", sorted(NUMBER))
def test_module_imports_only_lower_floors(name):
    imported = set(cvlab_imports((TOP/"cvlab"/f"{name}.py").read_text()))
    assert all(NUMBER[m] < NUMBER[name] for m in imported), f"{name} imports {imported}"
    floor = NUMBER[name]//10
    if floor in (1, 2, 3):
        assert all(NUMBER[m]//10 in (0, floor) for m in imported), f"floor {floor} imports {imported}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_demo_cells_look_up_one_floor_at_most(path):
    nb = json.loads(path.read_text())
    sources = ["".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code"]
    used = {m for s in sources for m in cvlab_imports(s)} - {path.stem[3:]}
    assert all(NUMBER[m]//10 <= int(path.stem[0]) + 1 for m in used), used


def test_each_module_has_its_notebook():
    assert {p.stem for p in (TOP/"cvlab").glob("[a-z]*.py")} == set(NUMBER)
    assert all(p.stat().st_size < 300_000 for p in NOTEBOOKS), "a library notebook is a page of the site: under 300 KB"


@pytest.fixture(scope="module")
def stages(): return read_yaml(TOP/"dvc.yaml")["stages"]


@pytest.mark.parametrize("stage", PIPELINE)
def test_stage_declares_what_it_uses(stage, stages):
    deps = {d for d in stages[stage]["deps"] if d.startswith(("cvlab/", "nbs/pipeline/"))}
    used = closure({m for s in code_cells(stage) for m in cvlab_imports(s)})
    assert deps == {f"nbs/pipeline/{stage}.ipynb"} | {f"cvlab/{m}.py" for m in used}


@pytest.mark.parametrize("stage", PIPELINE)
def test_stage_declares_the_parameters_it_may_see(stage, stages):
    declared = [p for p in stages[stage]["params"] if not p.startswith("experiments.")]
    assert tuple(declared) == STAGES[stage]


@pytest.mark.parametrize("stage", PIPELINE)
def test_pipeline_notebook_is_a_talk(stage):
    nb = json.loads((TOP/"nbs"/"pipeline"/f"{stage}.ipynb").read_text())
    assert not re.search(r"^\s*(def|class) ", "\n".join(code_cells(stage)), re.M), \
        "what needs a def belongs in a library notebook"
    assert [c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", [])], "one cell is tagged parameters"
    assert not any(c.get("outputs") for c in nb["cells"])


def test_no_notebook_stores_what_a_bar_drew():
    for path in [*(TOP/"nbs").rglob("*.ipynb"), *(TOP/"runs").rglob("*.ipynb")]:
        if ".ipynb_checkpoints" in path.parts: continue
        texts = ["".join(o.get("text", "")) for c in json.loads(path.read_text())["cells"]
                 for o in c.get("outputs", [])]
        assert not any("\x1b[2K" in t or "batches/s" in t for t in texts), path


def test_nothing_lies_in_runs_that_no_stage_wrote():
    "A file that an earlier pipeline left would be read as a result of this one."
    outs = [o["path"] for s in read_yaml(TOP/"dvc.lock")["stages"].values() for o in s["outs"]]
    here = subprocess.run(["git", "ls-files", "runs"], cwd=TOP, capture_output=True, text=True).stdout.split()
    # the last two hold what a clock said
    beside = ("runs/measured/", "runs/local/", "runs/bench/", "runs/architectures/")
    left = [f for f in here if not f.startswith(beside) and Path(f).name not in UNHASHED
            and f != "runs/ledger.csv"
            and not any(f == o or f.startswith(f"{o}/") for o in outs)]
    assert left == []


def test_every_section_reaches_a_stage():
    assert set(Params.model_fields) == {s for sections in STAGES.values() for s in sections}


def test_schema_for_editors_is_current():
    assert json.loads((TOP/"nbs"/"params.schema.json").read_text()) == params_schema()


def test_lock_has_hashes_and_no_addresses():
    for path in TOP.glob("requirements*.txt"):
        text = path.read_text()
        assert "://" not in text and "--index" not in text and "--find" not in text
        pins = re.findall(r"^[a-z0-9_.-]+==\S+.*\\\n    --hash=sha256:", text, re.M)
        assert len(pins) == len(re.findall(r"^\S+==", text, re.M)) > 0
    node = json.loads((TOP/".jupyter"/"package-lock.json").read_text())["packages"]
    assert all(p.keys() >= {"integrity"} and "resolved" not in p
               for name, p in node.items() if name)
