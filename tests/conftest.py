"Shared helpers: run pipeline notebooks in this process, and clones of the repository in temporary folders."

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads weights
TOP = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def code_cells(stage):
    "Sources of the code cells of a pipeline notebook; the parameters cell is left out."
    nb = json.loads((TOP / "nbs" / "pipeline" / f"{stage}.ipynb").read_text())
    return [
        "".join(c["source"])
        for c in nb["cells"]
        if c["cell_type"] == "code" and "parameters" not in c["metadata"].get("tags", [])
    ]


def run_inline(stage, out, overrides=(), experiment="", seed=0):
    "The very code of a pipeline notebook, without a kernel: a second instead of ten."
    names = dict(
        experiment=experiment,
        seed=seed,
        out=str(out),
        overrides=list(overrides),
        display=lambda *a: None,
    )
    for source in code_cells(stage):
        exec(compile(source, f"{stage}.ipynb", "exec"), names)
    return names


def environ(clone):
    "The environment of a person who works in the clone with this environment's programs."
    # `make test` may have started us
    known = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return {
        **known,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "MPLBACKEND": "Agg",
    }


def sh(clone, *command, check=True):
    "Run a command in a clone; its output is part of the failure."
    done = subprocess.run(
        [str(c) for c in command], cwd=clone, env=environ(clone), capture_output=True, text=True
    )
    if check and done.returncode:
        raise AssertionError(
            f"{command} exited with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done


def clone_into(clone):
    "A repository of its own, with the files git would give a stranger."
    for f in subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0"):
        if f and (TOP / f).is_file():
            (clone / f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / f, clone / f)
    sh(clone, "git", "init", "-q")
    sh(clone, "git", "add", ".")
    sh(
        clone,
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.org",
        "commit",
        "-qm",
        "as published",
    )
    return clone


@pytest.fixture(scope="session")
def top():
    return TOP


@pytest.fixture(scope="session")
def chromium():
    "A browser without a window; where there is none, tests that need it are skipped by name."
    api = pytest.importorskip(
        "playwright.sync_api",
        reason="playwright is missing: pip install --require-hashes -r requirements/docs.txt",
    )
    with api.sync_playwright() as p:
        try:
            browser = p.chromium.launch(
                executable_path=next(
                    filter(None, map(shutil.which, ("chromium", "google-chrome"))), None
                ),
                args=["--no-sandbox"],
            )
        except api.Error as e:
            # required where one was installed
            absent = pytest.fail if os.environ.get("CVLAB_BROWSER") == "required" else pytest.skip
            absent(
                f"no browser: apt install chromium, or playwright install chromium ({str(e).splitlines()[0]})"
            )
        yield browser
        browser.close()
