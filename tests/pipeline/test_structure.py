"The house: the order of packages, declared dependencies, parameters."

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOP, code_cells, environ
from fastcore.docments import docments

import cvlab
from cvlab.core.params import Params, params_schema, read_yaml
from cvlab.core.repro import UNHASHED
from cvlab.docs.site import PACKAGES
from cvlab.runs.stages import DETECT, STAGES, detect_yaml, dvc_yaml, sections_of
from cvlab.training.callbacks import TRAIN_PACKAGES

NOTEBOOKS = sorted((TOP / "nbs").glob("*/[0-9][0-9]_*.ipynb"))
EXPORTING = [
    p for p in NOTEBOOKS if "default_exp" in p.read_text()
]  # the others prove something of the library
MODULES = {f"{p.parent.name}.{p.stem[3:]}": p for p in EXPORTING}
RANK = {m: (list(PACKAGES).index(p.parent.name), int(p.stem[:2])) for m, p in MODULES.items()}
PIPELINE = list(read_yaml(TOP / "dvc.yaml")["stages"])


def cvlab_imports(source, package=""):
    "Modules of the library that a piece of code imports, absolutely or relatively, anywhere in it."
    for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.M))):
        if isinstance(node, ast.ImportFrom):
            stem = {0: "", 1: f"cvlab.{package}.", 2: "cvlab."}[node.level] + (node.module or "")
            for name in (stem, *(f"{stem}.{a.name}" for a in node.names)):
                if name.removeprefix("cvlab.") in MODULES:
                    yield name.removeprefix("cvlab.")
        if isinstance(node, ast.Import):
            yield from (a.name[6:] for a in node.names if a.name.startswith("cvlab."))


def imports_of(module):
    package, name = module.split(".")
    return set(cvlab_imports((TOP / "cvlab" / package / f"{name}.py").read_text(), package))


def closure(modules):
    "Those modules and everything of the library that they import."
    todo, seen = set(modules), set()
    while todo:
        m = todo.pop()
        seen.add(m)
        todo |= imports_of(m) - seen
    return seen


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_imports_only_what_is_below_it(name):
    "A package imports those before it in PACKAGES; within a package a notebook imports lower numbers."
    assert all(RANK[m] < RANK[name] for m in imports_of(name)), sorted(imports_of(name))


def test_each_module_has_its_notebook():
    found = {f"{p.parent.name}.{p.stem}" for p in (TOP / "cvlab").glob("*/[a-z]*.py")}
    assert found == set(MODULES)
    assert not list((TOP / "cvlab").glob("[a-z]*.py")), "a module lives in a package"
    assert len({RANK[m] for m in MODULES}) == len(MODULES), (
        "two notebooks of a package have one number"
    )
    assert all(p.stat().st_size < 300_000 for p in NOTEBOOKS), (
        "a library notebook is a page of the site: under 300 KB"
    )


@pytest.mark.parametrize("name", cvlab.__all__)
def test_public_name_resolves(name):
    "`cvlab.name` is what its module calls so; its docstring explains every parameter that has a comment."
    thing = getattr(cvlab, name)
    assert thing.__module__ == f"cvlab.{cvlab._HOME[name]}" and thing.__doc__ and name in dir(cvlab)
    f = thing if inspect.isfunction(thing) else vars(thing).get("__init__")
    if not inspect.isfunction(f) or "<string>" in f.__code__.co_filename:
        return  # a dataclass writes its own
    found = {k: d for k, d in docments(f, full=True).items() if d["docment"] and k != "self"}
    assert [k for k, d in found.items() if d["docment"] not in thing.__doc__] == []


def test_public_surface_is_small():
    assert 35 <= len(cvlab.__all__) == len(set(cvlab.__all__)) <= 50
    assert not {*cvlab.__all__} & {*PACKAGES}, "an import of the package would take the name"
    with pytest.raises(AttributeError, match="module 'cvlab' has no attribute 'trian'"):
        getattr(cvlab, "tri" + "an")


def test_import_is_light():
    "`import cvlab` reads no library: whoever only asks for a name pays for that name."
    heavy = "torch pandas numpy matplotlib sklearn fastai fastcore pydantic timm typer"
    probe = f"import sys, cvlab; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=TOP, env=environ(TOP), capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_training_is_followed_by_its_hash():
    "What the train stage imports to train is what the hash of a resumable state covers."
    imported = closure(["training.recipe", "training.frozen_cache", "training.callbacks"])
    assert {m.split(".")[0] for m in imported} <= set(TRAIN_PACKAGES)
    assert "data.fixtures" not in imported


def test_dvc_yaml_is_what_the_register_says():
    "`cvlab schema` writes it; a stage that is not in it would never run."
    assert (TOP / "dvc.yaml").read_text(encoding="utf-8") == dvc_yaml(TOP)
    assert (TOP / DETECT / "dvc.yaml").read_text(encoding="utf-8") == detect_yaml(TOP)
    assert {p.stem for p in (TOP / "nbs" / "pipeline").glob("*.ipynb")} >= set(STAGES)


@pytest.mark.parametrize("stage", PIPELINE)
def test_pipeline_notebook_is_a_talk(stage):
    nb = json.loads((TOP / "nbs" / "pipeline" / f"{stage}.ipynb").read_text())
    assert not re.search(r"^\s*(def|class) ", "\n".join(code_cells(stage)), re.M), (
        "what needs a def belongs in a library notebook"
    )
    assert [c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", [])], (
        "one cell is tagged parameters"
    )
    assert not any(c.get("outputs") for c in nb["cells"])


def test_no_notebook_stores_what_a_bar_drew():
    for path in [*(TOP / "nbs").rglob("*.ipynb"), *(TOP / "runs").rglob("*.ipynb")]:
        if ".ipynb_checkpoints" in path.parts:
            continue
        texts = [
            "".join(o.get("text", ""))
            for c in json.loads(path.read_text())["cells"]
            for o in c.get("outputs", [])
        ]
        assert not any("\x1b[2K" in t or "batches/s" in t for t in texts), path


def test_nothing_lies_in_runs_that_no_stage_wrote():
    "A file that an earlier pipeline left would be read as a result of this one."
    outs = [o["path"] for s in read_yaml(TOP / "dvc.lock")["stages"].values() for o in s["outs"]]
    here = subprocess.run(
        ["git", "ls-files", "runs"], cwd=TOP, capture_output=True, text=True
    ).stdout.split()
    # the last three hold what a clock gave
    beside = (
        "runs/measured/",
        "runs/local/",
        "runs/bench/",
        "runs/architectures/",
        "runs/exports/",
        "runs/rollout/",
        "runs/trackers/",
        "runs/detect/",  # of the second pipeline, with a dvc.lock of its own
    )
    left = [
        f
        for f in here
        if not f.startswith(beside)
        and Path(f).name not in UNHASHED
        and f != "runs/ledger.csv"
        and not any(f == o or f.startswith(f"{o}/") for o in outs)
    ]
    assert left == []


def test_every_section_reaches_a_stage():
    tasks = "classification", "detect"
    seen = {s for name in STAGES for task in tasks for s in sections_of(name, task)}
    assert set(Params.model_fields) == seen


def test_schema_for_editors_is_current():
    assert json.loads((TOP / "nbs" / "params.schema.json").read_text()) == params_schema()


def test_lock_has_hashes_and_no_addresses():
    for path in (TOP / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text and "--index" not in text and "--find" not in text
        pins = re.findall(r"^[a-z0-9_.-]+==\S+.*\\\n    --hash=sha256:", text, re.M)
        assert len(pins) == len(re.findall(r"^\S+==", text, re.M)) > 0
    node = json.loads((TOP / ".jupyter" / "package-lock.json").read_text())["packages"]
    assert all(
        p.keys() >= {"integrity"} and "resolved" not in p for name, p in node.items() if name
    )


def test_no_stored_notebook_was_given_a_path_of_one_machine():
    "Parameters are stored with an executed notebook; an absolute path names somebody's folder."
    stored = sorted((TOP / "runs").glob("*/**/*.ipynb"))
    assert stored
    for path in (p for p in stored if "local" not in p.relative_to(TOP).parts):
        for cell in json.loads(path.read_text())["cells"]:
            if "injected-parameters" in cell["metadata"].get("tags", []):
                assert '= "/' not in "".join(cell["source"]), path


def _words(path):
    "The Markdown of a page or notebook."
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def _headings(path):
    "The anchors of a page: its headings in lower case, words joined by hyphens."
    found = re.findall(r"^#+ +(.+)$", _words(path), re.M)
    plain = (re.sub(r"[^\w\s-]", "", h).strip() for h in found)
    return {re.sub(r"\s", "-", h.lower()) for h in plain}


def test_links_to_a_heading_find_it():
    "In Markdown and notebooks; the site checks links to names of the library as well."
    dead = []
    pages = [*TOP.glob("nbs/**/*.ipynb"), *TOP.glob("nbs/pages/**/*.md"), *TOP.glob("*.md")]
    for page in [p for p in pages if ".ipynb_checkpoints" not in p.parts]:
        for to, anchor in re.findall(r"\]\(([^()\s:#]*\.(?:md|ipynb))#([^()\s]+)\)", _words(page)):
            at = (page.parent / to).resolve()
            if page.is_relative_to(TOP / "nbs/pages/results"):
                at = (TOP / "results" / to).resolve()
            if at.is_file() and anchor.lower() not in _headings(at):
                dead.append((page.relative_to(TOP).as_posix(), f"{to}#{anchor}"))
    assert not dead, dead
