"Consistent forgeries, each followed by `dvc commit -f`, are named by the mode of verify that the documentation promises."

import shutil

import forgeries
import pytest
from conftest import TOP
from forgeries import FORGERIES, copy_into, rows

from cvlab.evidence.verify import (
    Lab,
    again_lines,
    check_page,
    check_stage,
    declared,
    ledger_line,
    lock_problems,
    measured_line,
    uncovered,
)

HERE = (TOP / "runs/weights/default/seed-0/best.safetensors").exists() and (TOP / "data").exists()
needs_weights = pytest.mark.skipif(
    not HERE, reason="the forger needs data and weights: `make repro` creates them"
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return copy_into(tmp_path_factory.mktemp("forgeries") / "original")


@pytest.fixture
def copy(original, tmp_path, monkeypatch):
    root = shutil.copytree(original, tmp_path / "lab", symlinks=True)
    monkeypatch.setattr(forgeries, "DOWNSTREAM", False)
    yield root
    shutil.rmtree(root)


def plain_lines(root, where):
    "The lines of plain verify for one item."
    lab, found = Lab(root), []
    if where in lab.lock:
        found = check_stage(lab, where, lock_problems(lab).get(where, []))
    if (root / where).is_file() and where.endswith(".md"):
        found = check_page(lab, root / where)
    if where.startswith("runs/measured"):
        found = [measured_line(root / where, lab)]
    outs = [o for s in lab.lock for o in lab.outs(s)]
    rest = [*uncovered(root / "runs", outs), ledger_line(root)]
    return [(x.what, x.state, x.why) for x in found] + rest


def named(lines, f, *states):
    "Whether a line of one of these states names the forgery."
    return any(s in states and f.words in why for what, s, why in lines if what == f.stage)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n, f in FORGERIES.items() if f.mode in ("plain", "witness")]
)
def test_plain_verify_names_it(name, copy):
    f = FORGERIES[name]
    state = "drift" if f.mode == "plain" else "unverifiable"
    f.plant(copy)
    forgeries.commit(copy)
    assert named(plain_lines(copy, f.stage), f, state), plain_lines(copy, f.stage)


@pytest.mark.slow
@needs_weights
@pytest.mark.parametrize(
    "name", [n for n, f in FORGERIES.items() if f.mode in ("weights", "retrain")]
)
def test_running_the_stage_again_names_it(name, copy):
    f = FORGERIES[name]
    f.plant(copy)
    forgeries.commit(copy)
    lines = again_lines(Lab(copy), f.stage)
    assert any(x.state == "drift" and f.words in x.why for x in lines), lines


def test_the_page_has_the_table():
    "Every forgery is a row of the documentation, with the mode that names it."
    text = (TOP / "nbs/pages/site/verify.md").read_text().splitlines()
    table = text[text.index("| forgery | what was changed | earlier | named by |") + 2 :]
    assert table[: table.index("")] == rows()
    assert not [x for x in declared(Lab(TOP)) if x.state == "drift"]
