"Names of classes and files with HTML, Markdown, LaTeX, escape sequences and formulas: shown, and never carried out."

import csv
import io
import os
import pty
import subprocess

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import BIN, TOP, environ
from PIL import Image

from cvlab.core.io import printable
from cvlab.data.fixtures import tiny_image

EVIL = [
    '<img src=x onerror="fired()">',
    "</script><script>fired()</script>",
    "<svg/onload=fired()>",
    "`*a*` [x](javascript:fired()) | ![](http://127.0.0.1/x.png)",
    "$\\frac{ and $",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "abc\u202egnp.exe",
    '=HYPERLINK("http://x";"y")',
    "{{claim:accuracy}} [[seed]] {% raw %}",
    "<!--claim:accuracy-->",
]
FILES = ["=1+1.png", "<b onclick=fired()>.png", "\x1b[31m.png", "\u202egnp.png", "a\nb.png"]
PAGES = "evaluate/seed-0/evaluate train/seed-0/train prepare/prepare leakage/leakage".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A training on classes and files with such names."
    top = tmp_path_factory.mktemp("names")
    folder, rng, rows = top / "data", np.random.default_rng(0), []
    folder.mkdir()
    for i in range(12 * len(EVIL)):
        name = FILES[i] if i < len(FILES) else f"{i}.png"
        Image.fromarray(tiny_image(rng, ("disc", "square")[i % 2], 32)).save(folder / name)
        rows.append(dict(path=name, label=EVIL[i % len(EVIL)]))
    pd.DataFrame(rows).to_csv(folder / "samples.csv", index=False)
    quick = "train.epochs=1 data.size=32 train.batch_size=8 evaluate.samples=8 leakage.planted=8"
    done = subprocess.run(
        [BIN / "cvlab", "train", "--data", folder, "--out", top / "run", *quick.split()],
        cwd=TOP,
        env=environ(TOP),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "\x1b" not in done.stderr + done.stdout, done.stderr
    assert "\u202e" not in done.stderr + done.stdout
    return top / "run"


def on_a_terminal(*words):
    "What a terminal gets from a command."
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [BIN / "cvlab", *map(str, words)], cwd=TOP, env=environ(TOP), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # Linux reports the end so
        pass
    child.wait()
    os.close(ours)
    return seen.decode()


@pytest.mark.parametrize("command", ["check", "predict", "wrong"])
def test_a_terminal_is_not_commanded(run, command):
    data = run.parent / "data"
    words = dict(
        check=("data", "check", data, "--full"),
        predict=("predict", "--run", run, data),
        wrong=("predict", "--run", run, data / "no\x1b[31m\u202e\n.png"),
    )[command]
    seen = on_a_terminal(*words)
    assert "\\x1b[31m" in seen and "\\u202e" in seen, seen
    assert "\x1b" not in seen and "\u202e" not in seen and "\x07" not in seen


def test_a_table_for_people_holds_no_formula(run):
    data = run.parent / "data"
    done = subprocess.run(
        [BIN / "cvlab", "predict", "--run", run, *(f for f in FILES)],
        cwd=data,
        env=environ(TOP),
        capture_output=True,
        text=True,
    )
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert len(rows) == 1 + len(FILES) and rows[1][0] == "'=1+1.png", rows
    assert not any(cell[:1] in "=+-@" for row in rows for cell in row if cell), rows
    assert all(cell.isprintable() for row in rows for cell in row), rows


def test_no_name_of_a_file_is_computed(run, tmp_path):
    "However a spreadsheet separates the cells of `cvlab predict`, none begins like a formula."
    names = [
        "=1.png",
        "+a.png",
        "-a.png",
        "@a.png",
        "\t=1.png",
        " =1.png",
        "a;=1+1;b.png",
        "＝1.png",
    ]
    for name in names:
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    done = subprocess.run(
        [BIN / "cvlab", "predict", "--run", run, "."],
        cwd=tmp_path,
        env=environ(TOP),
        capture_output=True,
        text=True,
    )
    for separator in ",;\t":
        rows = list(csv.reader(io.StringIO(done.stdout), delimiter=separator))
        assert len(rows) == 1 + len(names), done.stderr
        cells = [cell.strip() for row in rows for cell in row]
        assert not [c for c in cells if c and c[0] in "=+-@＝＋－＠"], (separator, rows)


def test_tables_that_the_lab_reads_again_hold_the_names_as_they_are(run):
    split = pd.read_csv(run / "prepare/split.csv", dtype=str, keep_default_na=False)
    assert set(FILES) <= set(split.path) and set(split.label) == set(EVIL)
    preds = pd.read_csv(next(run.rglob("predictions.csv")), dtype=str, keep_default_na=False)
    assert set(preds.label) <= set(EVIL) and f"logit_{EVIL[7]}" in preds.columns


def test_tables_of_the_results_are_text(run):
    from cvlab.evidence.claims import Claim, render, unmark

    columns = {"class": "{label}", "images": "{support}"}
    claim = Claim("classes", "evaluate/seed-*/predictions.csv", "by_class()", "", columns)
    table = unmark(render("{{claim:classes}}", {"classes": claim}, run))[0]
    assert table.count("\n") == len(EVIL) + 1, table
    for line in table.splitlines():
        assert line.replace("\\|", "").count("|") == 3, line
    assert "](javascript" not in table.replace("\\]", "") and "\x1b" not in table


def html_pages(run):
    "Every page that shows the names: name -> HTML."
    import mistune
    from nbconvert import HTMLExporter

    from cvlab.cli.api import load
    from cvlab.deploy.predictor import Predictor
    from cvlab.docs.slides import slides
    from cvlab.evidence.claims import Claim, render
    from cvlab.explain.browse import Browser

    card = next(run.rglob("MODEL_CARD.md")).read_text(encoding="utf-8")
    yield "card", mistune.create_markdown(escape=False, plugins=["table", "url"])(card)
    columns = {"class": "{label}", "images": "{support}"}
    claim = Claim("classes", "evaluate/seed-*/predictions.csv", "by_class()", "", columns)
    table = render("{{claim:classes}}", {"classes": claim}, run)
    yield "results", mistune.create_markdown(escape=False, plugins=["table"])(table)
    for name in PAGES:
        page = nbformat.read(run / f"{name}.ipynb", 4)
        yield name, HTMLExporter(template_name="basic").from_notebook_node(page)[0]
    yield "run", load(run)._repr_html_()
    yield "prediction", Predictor(run)(run.parent / "data" / "20.png")._repr_html_()
    yield "browser", Browser([], run)._repr_html_()
    deck = nbformat.v4.new_notebook(
        metadata=dict(kernelspec=dict(name="python3", display_name="", language="python"))
    )
    frame = pd.DataFrame({"name": EVIL})
    shown = [
        nbformat.v4.new_output("display_data", data={"text/html": frame.to_html()}),
        nbformat.v4.new_output("stream", text="\n".join(EVIL)),
        nbformat.v4.new_output("execute_result", data={"text/plain": repr(EVIL)}),
    ]
    head = nbformat.v4.new_markdown_cell("# Talk", metadata=dict(tags=["slide"]))
    head.metadata["slideshow"] = dict(slide_type="slide")
    names = nbformat.v4.new_code_cell("", outputs=shown)
    names.metadata["tags"] = ["more"]  # on the same slide
    deck.cells = [head, names]
    nbformat.write(deck, run.parent / "deck.ipynb")
    try:
        page = slides(run.parent / "deck.ipynb", run.parent / "deck.html")
        yield "slides", page.read_text(encoding="utf-8")
    except ImportError:
        pass


@pytest.fixture(scope="module")
def pages(run):
    return dict(html_pages(run))


def test_no_name_is_markup(pages):
    "Without a browser: no element, attribute or address of a page comes from a name."
    from bs4 import BeautifulSoup

    assert {"card", "results", "run", "prediction", "browser", "slides", *PAGES} == set(pages)
    for name, html in pages.items():
        soup = BeautifulSoup(html, "html.parser")
        for tag in soup.find_all(True):
            assert not [k for k in tag.attrs if k.startswith("on")], (name, tag)
            for key in ("href", "src"):
                value = str(tag.get(key, "")).strip().lower()
                assert value != "x" and not value.startswith(("javascript:", "http://")), (
                    name,
                    tag,
                )
        assert not [t for t in soup.find_all("script") if "fired()" in t.text[:20]], name
        assert name == "slides" or "\x1b" not in html and "\u202e" not in html, name
        assert "{{claim" not in soup.text.replace(EVIL[-2], ""), name


def test_a_browser_shows_the_names_and_runs_none(run, pages, chromium):
    context = chromium.new_context()
    context.set_offline(True)
    for name, html in pages.items():
        tab, asked = context.new_page(), []
        tab.on("request", lambda r, asked=asked: asked.append(r.url))
        tab.add_init_script("window.count = 0; window.fired = () => { window.count += 1 }")
        path = run.parent / "page.html"
        path.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{html}", encoding="utf-8")
        tab.goto(path.as_uri())
        for node in tab.query_selector_all("[onclick], b, td, li")[:200]:
            node.dispatch_event("click")
        assert tab.evaluate("window.count") == 0, name
        assert tab.evaluate("document.querySelectorAll('[onerror],[onload],[onclick]').length") == 0
        links = tab.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")
        assert not [x for x in links if x.lower().startswith("javascript:")], name
        assert not [u for u in asked if "127.0.0.1" in u or u.endswith("/x")], (name, asked)
        if name in ("card", "results", "slides"):
            words = tab.evaluate("document.body.textContent")
            for evil in EVIL[:3]:
                assert printable(evil) in words, (name, evil)
        tab.close()
    context.close()


def test_the_site_shows_the_card_as_text(run, tmp_path):
    sphinx = pytest.importorskip("sphinx.cmd.build", reason="the extra docs is missing")
    (tmp_path / "conf.py").write_text('extensions = ["myst_nb"]\nnb_execution_mode = "off"\n')
    for name in PAGES:
        text = (run / f"{name}.ipynb").read_text(encoding="utf-8")
        (tmp_path / f"{name.split('/')[-1]}.ipynb").write_text(text, encoding="utf-8")
    card = next(run.rglob("MODEL_CARD.md")).read_text(encoding="utf-8")
    (tmp_path / "index.md").write_text(card, encoding="utf-8")
    assert sphinx.main(["-q", "-b", "html", str(tmp_path), str(tmp_path / "out")]) == 0
    for page in (tmp_path / "out").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for part in ("<script>fired()", "<img src=x", "<svg/onload", 'href="javascript:fired'):
            assert part not in text, (page.name, part)
