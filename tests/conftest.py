"Shared helpers: commands and pipeline notebooks in this process, and clones of the repository in temporary folders."

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from unittest.mock import patch

import matplotlib
import pytest

matplotlib.use("Agg")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads weights
TOP = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


# the files that take longest, longest first: with two workers (.ci/test), none of them is begun last
LONGEST = """pipeline/test_verify pipeline/test_tune pipeline/test_parameters site/test_site cli/test_mistakes
trackers/test_trackers pipeline/test_pipeline pipeline/test_presets cli/test_api cli/test_cli deploy/test_predictor""".split()


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` is applied
def pytest_collection_modifyitems(config, items):
    "Files named on the command line first (what the last commit changed), then the longest; the site is built at night."
    for item in items:
        if "site" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
    named = [Path(a.split("::")[0]).resolve() for a in config.args]

    def turn(item):
        file = "/".join(item.path.with_suffix("").parts[-2:])
        return (
            item.path not in named,
            LONGEST.index(file) if file in LONGEST else len(LONGEST),
        )

    items.sort(key=turn)  # stable: the order within a file stays


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


@pytest.fixture(scope="session", autouse=True)
def preloaded():
    "Kernels of all commands in this process are forked from one that has imported the libraries."
    from cvlab.runs.warm import warm

    with warm():
        yield


def in_process(words, cwd, **env):
    "`cvlab ...` without a process of its own, which would import for seconds: exit status and both outputs."
    from cvlab.cli.main import main

    streams = [
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)
    ]
    code = 0
    with (
        contextlib.chdir(cwd),
        patch.object(sys, "argv", ["cvlab", *map(str, words)]),
        # nobody watches, although another test may have imported ipykernel
        patch.dict(os.environ, {"CVLAB_STAGE": "unwatched", **env}),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        try:
            main()
        except SystemExit as e:
            if isinstance(e.code, str):
                print(e.code, file=sys.stderr)
            code = 1 if isinstance(e.code, str) else e.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
    return code, *(s.buffer.getvalue().decode() for s in streams)


def cvlab(*words, cwd=TOP):
    "The same, and nobody sees a traceback."
    code, out, err = in_process(words, cwd)
    assert "Traceback" not in out + err, err
    return code, out, err


def environ(clone):
    "The environment of a person who works in the clone with this environment's programs."
    # `make test` may have started us; a clone's kernels import the clone
    ours = ("MAKE", "MFLAGS", "CVLAB_WARM", "JUPYTER_DEFAULT_PROVISIONER_NAME")
    known = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
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
