"Each mistake of nbs/pages/mistakes.yaml is made, and answered in a line that says what to do: no traceback, nothing changed."

import contextlib
import ctypes
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from unittest.mock import patch

import pytest
from conftest import TOP, clone_into, environ, in_process

from cvlab.core.params import plain, read_yaml
from cvlab.data.fixtures import tiny_folder
from cvlab.data.samples import find_samples, split_samples, write_split
from cvlab.models.create import create_model, save_model
from cvlab.runs.run import open_run

FAMILIES = plain(read_yaml(TOP / "nbs" / "pages" / "mistakes.yaml"))
CASES = [(f["family"], i, c) for f in FAMILIES for i, c in enumerate(f["cases"], 1)]
KEYS = {"did", "first", "say", "told", "do", "code", "xfail", "needs", "without", "elsewhere"}


def here(module):
    return importlib.util.find_spec(module) is not None


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A fresh clone: no data, no weights, no environment."
    return clone_into(tmp_path_factory.mktemp("lab") / "cvlab")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    "Somebody's home: images, and a training on them."
    home = tmp_path_factory.mktemp("template")
    own = [f"data.path={tiny_folder(home / 'photos')}", "data.size=32", "train.batch_size=8"]
    for stage in ("prepare", "train"):
        where = home / "run" / stage / ("seed-0" if stage == "train" else "")
        open_run(stage, "", 0, str(where), own).lock.release()
    write_split(
        home / "run" / "prepare" / "split.csv", split_samples(find_samples(home / "photos"))
    )
    info = dict(
        name="small_cnn",
        classes=["disc", "square"],
        size=32,
        side=32,
        normalise="half",
        head="linear",
    )
    # nobody asks here how well it was trained
    save_model(home / "run" / "weights" / "seed-0", create_model("small_cnn", 2), info)
    return home


@pytest.fixture
def home(template, tmp_path):
    "A copy of it that a mistake may be made in."
    shutil.copytree(template, tmp_path / "home")
    for f in (tmp_path / "home").rglob("params.yaml"):
        f.write_text(f.read_text().replace(str(template), str(tmp_path / "home")))
    yield tmp_path / "home"
    subprocess.run(["chmod", "-R", "u+rwX", tmp_path])


@contextlib.contextmanager
def as_anybody():
    "Root may read and write all; a person may not (Linux: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH are laid down)."
    if os.geteuid() or sys.platform != "linux":
        yield
        return
    libc, header, caps = (
        ctypes.CDLL(None),
        (ctypes.c_uint32 * 2)(0x20080522, 0),
        (ctypes.c_uint32 * 6)(),
    )
    libc.capget(header, caps)
    before = caps[0]
    caps[0] &= ~0b110
    libc.capset(header, caps)
    try:
        yield
    finally:
        caps[0] = before
        libc.capset(header, caps)


@contextlib.contextmanager
def blocked(package):
    "As if a package were not installed, for commands in this process. Other imports stay: torch bears no second time."
    if not package:
        yield
        return
    known = {
        m: sys.modules[m] for m in [*sys.modules] if m == package or m.startswith(f"{package}.")
    }
    sys.modules.update(dict.fromkeys([*known, package]))
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(known)


def without_stages(words, cwd, home):
    "The command in this process; it fails where a stage begins."

    def no_stage(stage, *a, **kw):
        raise AssertionError(f"stage {stage} was begun")

    with as_anybody(), patch("cvlab.runs.engine.run_stage", no_stage):
        return in_process(words, cwd, HOME=str(home))


def in_shell(say, cwd, home, lab):
    done = subprocess.run(
        ["bash", "-c", say],
        cwd=cwd,
        env={**environ(lab), "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def say_it(case, lab, home):
    "What a person sees who types it: exit status, and the two outputs with the person's own names for places."
    say, cwd = case["say"], lab
    if say.startswith("cd ~ && "):
        say, cwd = say[8:], home
    if say.startswith("cvlab ") and ">" not in say:  # the shell's part of it, without a shell
        words = [str(home) + w[1:] if w.startswith("~/") else w for w in shlex.split(say)[1:]]
        code, *answer = without_stages(words, cwd, home)
    else:
        code, *answer = in_shell(say, cwd, home, lab)
    return code, *(s.replace(str(home), "~").replace(str(lab), ".") for s in answer)


def files(folder):
    "Names, sizes and times of all files but hidden ones: locks, and what libraries keep in a home."
    seen = (
        p
        for p in folder.rglob("*")
        if not any(n[0] == "." for n in p.relative_to(folder).parts) and p.is_file()
    )
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in seen}


def git_says(lab):
    return subprocess.run(
        ["git", "status", "--porcelain"], cwd=lab, capture_output=True, text=True
    ).stdout


def pattern(told):
    return ".*".join(map(re.escape, told.split("...")))


@pytest.mark.parametrize(
    "family, i, case", CASES, ids=[f"{f.split()[0].lower()}-{i}" for f, i, _ in CASES]
)
def test_a_mistake_is_answered(family, i, case, lab, home, request):
    if case.get("elsewhere"):
        pytest.skip(f"in {case['elsewhere']}")
    if case.get("needs") and not here(case["needs"]):
        pytest.skip(f"{case['needs']} is not installed")
    if case.get("xfail"):
        request.applymarker(pytest.mark.xfail(reason=case["xfail"], strict=True))
    if first := case.get("first"):
        subprocess.run(
            ["bash", "-ec", first],
            cwd=lab,
            env={**environ(lab), "HOME": str(home)},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        before = git_says(lab), files(home)
        with blocked(case.get("without")):
            code, out, err = say_it(case, lab, home)
        after = git_says(lab), files(home)
    finally:
        subprocess.run("git reset -q --hard && git clean -qfdx", shell=True, cwd=lab, check=True)
    answer = f"$ {case['say']}\n{out[-2000:]}\n{err[-4000:]}"
    assert "Traceback" not in out + err, answer
    assert code == case.get("code", 1), answer
    # a slow machine shows progress, which a return to the start of the line replaces
    lines = [shown for line in err.split("\n") if (shown := line.split("\r")[-1].rstrip())]
    assert len(lines) <= 3, answer
    assert any(
        re.fullmatch(pattern(case["told"]), line.rstrip()) for line in [*lines, *out.splitlines()]
    ), f"{case['told']}\nis not in\n{answer}"
    assert before == after, f"something was written\n{answer}"


def test_the_table_is_one():
    "What the site shows: every case says what was done and what is answered, in known words, once."
    for family, i, c in CASES:
        assert "elsewhere" not in c or (TOP / c["elsewhere"]).is_file(), (family, i)
        assert "without" not in c or c["say"].startswith("cvlab "), (
            "only what runs in this process can be kept from a package"
        )
        assert {"did", "say", "told"} <= c.keys() <= KEYS, (family, i)
        assert not c["did"].endswith(".")
    assert len({(c.get("first"), c["say"]) for *_, c in CASES}) >= len(CASES) - 1
    assert len(FAMILIES) == len({f["family"] for f in FAMILIES})
