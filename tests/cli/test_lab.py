"JupyterLab as a person meets it: `make lab`, a browser, a bar that moves; and notebooks that two people changed."

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
from conftest import BIN, TOP, clone_into, environ, sh
from nbclient import NotebookClient

from cvlab.runs.engine import clean_file

TOKEN = "a-token-for-tests"


SERVER = TOP / ".jupyter" / "node_modules"  # what `make completion` puts there


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = clone_into(tmp_path_factory.mktemp("clone") / "it is")
    if SERVER.exists():
        (clone / ".jupyter" / "node_modules").symlink_to(SERVER)
    return clone


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(url):
    try:
        return urlopen(url, timeout=5).status == 200
    except (URLError, OSError):
        return False


@pytest.fixture(scope="module")
def lab(clone, tmp_path_factory):
    "The command of `make lab`, without its browser, in a clone and with an empty home; its address, and that home."
    home, port = tmp_path_factory.mktemp("home"), free_port()
    args = f"--no-browser --allow-root --port {port} --ServerApp.port_retries=0 --IdentityProvider.token={TOKEN}"
    log = open(tmp_path_factory.mktemp("log") / "lab.log", "w+")
    env = {**environ(clone), "HOME": str(home)}
    for k in [k for k in env if k.startswith(("JUPYTER", "IPYTHON", "XDG_", "MPL"))]:
        del env[k]
    server = subprocess.Popen(
        ["make", "-o", "install", "lab", f"ARGS={args}"], cwd=clone, env=env, stdout=log, stderr=log
    )
    try:
        for _ in range(240):
            if answers(f"http://127.0.0.1:{port}/api/status?token={TOKEN}"):
                break
            assert server.poll() is None, Path(log.name).read_text()[-3000:]
            time.sleep(0.5)
        else:
            pytest.fail(f"no answer: {Path(log.name).read_text()[-3000:]}")
        yield f"http://127.0.0.1:{port}", home
    finally:
        subprocess.run(
            [BIN / "jupyter", "server", "stop", str(port)],
            cwd=clone,
            capture_output=True,
            env={**env, "JUPYTER_RUNTIME_DIR": str(clone / ".cvlab/jupyter/runtime")},
        )
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def page(chromium, lab):
    page = chromium.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(120_000)
    yield page
    page.close()


def shot(page, name):
    "An image for a person who wants to see it: `CVLAB_SHOTS=folder pytest tests/cli/test_lab.py`."
    if folder := os.environ.get("CVLAB_SHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def menu(page, *path):
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{path[0]}$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{path[1]}$")).first.click()


def saved(page):
    "Press Ctrl+S and wait until the tab says that nothing is left to save."
    page.locator(".jp-Notebook:visible").first.focus()

    def put(r):
        return r.request.method == "PUT" and "/api/contents/" in r.url

    with page.expect_response(put) as done:
        page.keyboard.press("Control+s")
    assert done.value.ok


def status(clone):
    return sh(clone, "git", "status", "--porcelain").stdout


def open_notebook(page, address, path):
    page.goto(f"{address}/lab/tree/{path}?reset&token={TOKEN}")
    page.wait_for_selector(".jp-Notebook:visible .jp-Cell")
    page.locator(".jp-StatusBar-TextItem", has_text="| Idle").wait_for()  # its kernel is there


def run_all(page, seconds, look=lambda: None):
    "Run → Run All Cells, looking all the time, until no cell waits."
    menu(page, "Run", "Run All Cells")
    began, waiting = (
        time.time(),
        page.locator(".jp-Notebook:visible .jp-InputPrompt", has_text="[*]"),
    )
    waiting.first.wait_for(state="attached")
    while waiting.count():
        look()
        page.wait_for_timeout(100)
        assert time.time() - began < seconds, page.locator(
            ".jp-Notebook:visible .jp-InputPrompt"
        ).all_text_contents()
    page.locator(".jp-StatusBar-TextItem", has_text="| Idle").wait_for()


def errors(page):
    "What cells stopped with."
    return page.locator(
        ".jp-Notebook:visible [data-mime-type='application/vnd.jupyter.error']"
    ).all_text_contents()


@pytest.mark.slow
def test_the_landing_notebook_runs(lab, page, clone):
    "A bar that moves, figures, a list of runs, no error; and after Ctrl+S nothing that git would notice."
    address, _ = lab
    open_notebook(page, address, "nbs/pages/lab.ipynb")
    shot(page, "opened")
    bar, widths = page.locator(".jp-Notebook:visible .progress-bar"), []

    def look():
        widths.extend(
            w for w in bar.evaluate_all("bars => bars.map(b => b.style.width)") if w not in widths
        )
        if len(widths) == 5:
            bar.scroll_into_view_if_needed()
            shot(page, "moving")

    run_all(page, 300, look)
    assert errors(page) == []
    shares = [float(w.rstrip("%")) for w in widths if w]
    assert len(shares) >= 3 and shares == sorted(shares), f"the bar was seen at {widths}"
    figures = page.locator(".jp-Notebook:visible .jp-RenderedImage img")
    assert figures.count() == 2 and all(
        figures.nth(i).evaluate("f => f.naturalWidth") > 300 for i in range(2)
    )
    saved(page)
    assert status(clone) == ""
    choose = page.locator(".jp-Notebook:visible .widget-select-multiple select")
    assert choose.count() == 1, "the list of runs"
    choose.scroll_into_view_if_needed()
    shot(page, "runs")
    choose.select_option(["lr_too_high"])
    page.locator(".jp-Notebook:visible img[alt='Training curves of lr_too_high']").wait_for()
    shot(page, "lr_too_high")


def test_tab_completes(lab, page):
    "In the landing notebook, after its first cell of code has loaded the extension."
    open_notebook(page, lab[0], "nbs/pages/lab.ipynb")
    loads = page.locator(".jp-Notebook:visible .jp-CodeCell", has_text="%load_ext cvlab").first
    loads.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    loads.locator(".jp-InputPrompt", has_text="[1]").wait_for()
    cell = page.locator(
        ".jp-Notebook:visible .jp-CodeCell .cm-content", has_text="%params optim"
    ).first
    cell.scroll_into_view_if_needed()
    cell.click()
    page.keyboard.press("End")
    page.keyboard.type(" loss.alpha=")
    page.keyboard.press("Tab")
    page.locator(".jp-Completer-item", has_text="loss.alpha=effective").wait_for()
    shot(page, "completion")
    offered = {
        t.split("=")[1].split("param")[0]
        for t in page.locator(".jp-Completer-item").all_text_contents()
    }
    # in an order that is JupyterLab's, and another's with `make completion`
    assert offered == {"effective", "inverse", "null"}
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")


@pytest.mark.skipif(not SERVER.exists(), reason="`make completion` was not called")
def test_the_editor_completes_params(lab, page):
    "The sections of an experiment, and a value that is none is underlined: both from the schema."
    page.goto(f"{lab[0]}/lab/tree/params.yaml?reset&token={TOKEN}")
    page.locator(".jp-StatusBar-TextItem", has_text="Fully initialized").wait_for()
    page.locator(".jp-FileEditor:visible .cm-content").click()
    page.keyboard.press("Control+End")
    page.keyboard.type("  mine: {tr")
    page.wait_for_timeout(1000)
    page.keyboard.press("Tab")
    page.locator(".jp-Completer-item", has_text=re.compile("^trainproperty$")).wait_for()
    shot(page, "editor")
    page.keyboard.press("Escape")
    page.keyboard.type("ain: {precision: fp17")
    page.locator(".jp-FileEditor:visible .cm-lintRange").first.wait_for()
    shot(page, "mistake")
    for _ in range(20):
        page.keyboard.press("Control+z")  # a page with changes would ask before it is left


def test_completion_asks_for_npm(clone):
    answer = subprocess.run(
        [shutil.which("make"), "-o", "install", "completion"],
        cwd=clone,
        capture_output=True,
        text=True,
        env={**environ(clone), "PATH": "/nowhere"},
    )
    assert answer.returncode == 2 and answer.stderr.startswith(
        "cvlab: npm is missing, and the server"
    ), answer


@pytest.mark.parametrize("path", ["nbs/runs/02_ledger.ipynb", "nbs/pipeline/prepare.ipynb"])
def test_run_and_saved_again_a_notebook_is_what_it_was(lab, page, clone, path):
    "A library notebook keeps its outputs, one of the pipeline has none: neither makes a difference in git."
    open_notebook(page, lab[0], path)
    run_all(page, 300)
    shot(page, Path(path).stem)
    assert errors(page) == []
    saved(page)
    assert sh(clone, "git", "diff", "--", path).stdout == ""


def test_nothing_is_written_into_the_home_folder(lab, page):
    "But for caches of matplotlib, and the empty folders above them."
    home = lab[1]
    written = {f.relative_to(home).as_posix() for f in home.rglob("*") if f.is_file()}
    assert not {
        f for f in written if not f.startswith((".cache/matplotlib/", ".config/matplotlib/"))
    }, written


OF_THIS_COPY = {"tutorials/walkthrough"}  # names commits, and a copy has others


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tutorials/walkthrough", marks=pytest.mark.slow),
        "pipeline/train",
        "pipeline/compare",
    ],
)
def test_a_plain_kernel_runs_it(clone, name):
    "From top to bottom without papermill, nbdev or JupyterLab; cleaned, it is as it was. `make test` runs the others."
    path = clone / "nbs" / f"{name}.ipynb"
    nb, before = nbformat.read(path, 4), path.read_bytes()
    there = {"metadata": {"path": str(path.parent)}}
    try:
        nbformat.write(
            NotebookClient(nb, kernel_name="python3", resources=there).execute(env=environ(clone)),
            path,
        )
        clean_file(path)
        if name not in OF_THIS_COPY:
            assert path.read_bytes() == before
    finally:
        path.write_bytes(before)


# notebooks that are merged


def notebook(path, cells):
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                s,
                id=f"c{i}",
                execution_count=n,
                outputs=[nbformat.v4.new_output("stream", text=f"{n}\n")],
            )
            for i, (s, n) in enumerate(cells)
        ]
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(nbformat.writes(nb) + "\n")


@pytest.fixture
def branches(tmp_path):
    "A repository with our hooks; `edit(branch, cells)` commits a version of nbs/a.ipynb."
    for d in (".githooks", ".gitattributes"):
        subprocess.run(["cp", "-r", TOP / d, tmp_path], check=True)
    sh(tmp_path, "git", "init", "-qb", "main")
    sh(tmp_path, ".githooks/setup")
    for k, v in (("user.name", "t"), ("user.email", "t@example.org")):
        sh(tmp_path, "git", "config", k, v)

    def edit(branch, cells):
        if branch != "main":
            sh(tmp_path, "git", "checkout", "-qb", branch, "main")
        notebook(tmp_path / "nbs" / "a.ipynb", cells)
        sh(tmp_path, "git", "add", ".")
        sh(tmp_path, "git", "commit", "-qm", branch)

    return tmp_path, edit


def sources(clone):
    return [c.source for c in nbformat.read(clone / "nbs/a.ipynb", 4).cells]


def test_two_people_change_different_cells(branches):
    "Neighbours, and with other counts and outputs everywhere: lines conflict, cells do not."
    clone, edit = branches
    edit("main", [("a = 1", 1), ("b = 1", 2), ("c = 1", 3)])
    edit("one", [("a = 2", 1), ("b = 1", 2), ("c = 1", 3)])
    # a name that a shell would take to pieces
    edit("it's;another", [("a = 1", 11), ("b = 1", 12), ("c = 2", 13)])
    merged = sh(clone, "git", "merge", "-qm", "both", "one")
    assert sources(clone) == ["a = 2", "b = 1", "c = 2"], merged
    assert status(clone) == ""


def test_two_people_change_the_same_cell(branches):
    "Both are there, between cells that say so, in a notebook that opens; git asks a person."
    clone, edit = branches
    edit("main", [("a = 1", 1), ("b = 1", 2)])
    edit("one", [("a = 2", 1), ("b = 1", 2)])
    edit("two", [("a = 3", 1), ("b = 1", 2)])
    assert sh(clone, "git", "merge", "one", check=False).returncode == 1
    assert status(clone).startswith("UU nbs/a.ipynb")
    assert {"a = 2", "a = 3", "b = 1"} <= set(sources(clone))


def test_a_conflict_is_not_committed(branches):
    "Neither the cells of the merge driver nor markers in the file, also not before a clean notebook."
    clone, edit = branches
    (clone / ".venv").symlink_to(BIN.parent)
    (clone / "cvlab").symlink_to(TOP / "cvlab")
    (clone / "params.yaml").touch()  # the top of a repository
    edit("main", [("a = 1\n", 1), ("b = 1\n", 2)])
    edit("one", [("a = 2\n", 1), ("b = 1\n", 2)])
    edit("two", [("a = 3\n", 1), ("b = 1\n", 2)])
    sh(clone, "git", "merge", "one", check=False)
    notebook(clone / "nbs" / "z.ipynb", [("c = 1\n", 1)])
    sh(clone, "git", "add", "nbs")
    done = sh(clone, "git", "commit", "-qm", "merged", check=False)
    assert (
        done.returncode and "nbs/a.ipynb:" in done.stderr and ": a merge conflict" in done.stderr
    ), done
    marked = (clone / "nbs" / "a.ipynb").read_text().replace(' "cells"', '<<<<<<< one\n "cells"', 1)
    (clone / "nbs" / "a.ipynb").write_text(marked)
    done = sh(clone, BIN / "cvlab", "clean", "nbs/a.ipynb", check=False)
    assert done.returncode == 1 and "nbs/a.ipynb:2: a merge conflict" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_hooks_are_of_this_repository_only(branches, tmp_path_factory):
    clone, _ = branches
    home = tmp_path_factory.mktemp("home")
    subprocess.run(
        [".githooks/setup"], cwd=clone, env={**environ(clone), "HOME": str(home)}, check=True
    )
    assert list(home.iterdir()) == []
    assert sh(clone, "git", "config", "--local", "core.hooksPath").stdout == ".githooks\n"
