"The interview walk: one file of slides that opens without the internet, and a page that says what the records say."

import re
import subprocess
from importlib.util import find_spec

import nbformat
import pytest
from bs4 import BeautifulSoup
from conftest import TOP

from cvlab.core.io import LabError
from cvlab.docs.slides import TAGS, fetched, slides
from cvlab.explain.timelapse import film_of

WALK = TOP / "nbs" / "tutorials" / "walkthrough.ipynb"
needs_reveal = pytest.mark.skipif(
    find_spec("sphinx_revealjs") is None, reason="reveal.js is not installed (extra docs)"
)


@pytest.fixture(scope="module")
def walk():
    return nbformat.read(WALK, as_version=4)


def tagged(nb, tag):
    return [c for c in nb.cells if tag in c.metadata.get("tags", [])]


def test_the_walk_is_a_talk_of_minutes(walk):
    assert 8 <= len(tagged(walk, "slide")) <= 12
    assert WALK.stat().st_size < 300_000
    assert any(not set(c.metadata.get("tags", [])) & set(TAGS) for c in walk.cells), (
        "the essay is longer than its slides"
    )


def test_questions_say_where_their_answer_lies(walk):
    notes = [c.source for c in tagged(walk, "notes")]
    questions = [
        q for n in notes for q in re.split(r"(?=\*\*Asked: )", n) if q.startswith("**Asked")
    ]
    assert len(questions) >= 12 and len(notes) == len(tagged(walk, "slide"))
    for q in questions:
        assert re.search(r"\]\(|`", q) or "not tested" in q or "not asked" in q, q


@pytest.mark.slow
def test_the_walk_says_what_the_records_say(walk):
    "Claims and film again; commits are left out, since a commit cannot name itself."
    from cvlab.core.params import resolve
    from cvlab.data.samples import read_split
    from cvlab.evidence.claims import check_text, load_claims

    params = resolve(TOP / "params.yaml")
    claims = load_claims(
        TOP / "nbs/pages/claims.yaml",
        params,
        sorted(read_split(TOP / "runs/prepare/split.csv").label.unique()),
    )
    data = [o.data for c in walk.cells for o in c.get("outputs", []) if "data" in o]
    answer = [d["text/markdown"] for d in data if "<!--claim:" in d.get("text/markdown", "")]
    drifted = [p for t in answer for p in check_text(t, claims, TOP) if "unregistered" not in p]
    assert len(answer) >= 6 and drifted == [], (
        "run the walk again: jupyter nbconvert --execute --inplace"
    )
    assert any(film_of(TOP).alt in d.get("text/plain", "") for d in data), (
        "the film is of other runs; run the walk again"
    )


def test_each_commit_that_it_names_wrote_what_it_says(walk):
    "The evidence below a step: the commit is in the history of that folder."

    def git(*args):
        return subprocess.run(["git", *args], cwd=TOP, capture_output=True, text=True).stdout

    if git("rev-parse", "--is-shallow-repository").strip() != "false":
        pytest.skip("no whole history here")
    shown = [
        o.data.get("text/html", "") for c in walk.cells for o in c.get("outputs", []) if "data" in o
    ]
    named = re.findall(r"<code>([^<]+)</code>: commit (\w+) of", "\n".join(shown))
    assert len(named) >= 10
    for path, commit in named:
        assert f"\n{commit}" in "\n" + git("log", "--format=%H", "--", path), (path, commit)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("slides") / "walkthrough.html"
    return slides(WALK, out)


@needs_reveal
def test_it_can_be_said_in_three_to_five_minutes(page):
    "What is read aloud, at 130 words a minute: neither tables nor commands, evidence or notes."
    soup = BeautifulSoup(page.read_text(), "html.parser").select_one(".slides")
    for silent in soup.select("aside, table, pre, script, style, .evidence"):
        silent.decompose()
    spoken = len(re.findall(r"[^\W_][\w'’.,-]*", soup.get_text(" ")))
    assert 3 <= spoken / 130 <= 5, f"{spoken} words"


def test_the_film_is_of_the_experiments_of_params(tmp_path):
    "`make slides` names none of them; one that was not trained is a line."
    for f in (
        "params.yaml",
        "runs/prepare/split.csv",
        *(p.relative_to(TOP) for p in TOP.glob("runs/train/*/*/results.csv")),
    ):
        (tmp_path / f).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f).write_bytes((TOP / f).read_bytes())
    params = (tmp_path / "params.yaml").read_text()
    assert film_of(tmp_path) == film_of(TOP)
    (tmp_path / "params.yaml").write_text(params.replace("  lr_too_high:", "  hotter:"))
    with pytest.raises(LabError, match="train hotter, or leave it out"):
        film_of(tmp_path)
    recipe = (TOP / "Makefile").read_text().split("\nslides:")[1].split("\n\n")[0]
    assert not [
        e for e in ("default", "augmented", "lr_too_high") if re.search(rf"\b{e}\b", recipe)
    ]


@needs_reveal
def test_one_file_and_nothing_to_fetch(page):
    text = page.read_text()
    assert fetched(text) == [] and len(text) < 1_000_000
    assert "MIT licensed" in text, "the licence of reveal.js travels with it"
    assert str(TOP) not in text


@pytest.fixture
def tab(chromium, page):
    "The talk, opened with the model off; `tab.asked` are requests, `tab.answer` what went wrong."
    context = chromium.new_context(viewport=dict(width=1280, height=720))
    context.set_offline(True)
    tab = context.new_page()
    tab.asked, tab.answer = [], []
    context.on("request", lambda r: tab.asked.append(r.url))
    context.on(
        "console", lambda m: tab.answer.append(m.text) if m.type in ("error", "warning") else None
    )
    context.on("weberror", lambda e: tab.answer.append(str(e.error)))
    tab.goto(page.as_uri())
    tab.wait_for_function("window.Reveal && Reveal.isReady()")
    yield tab
    context.close()


LOWEST = """() => Math.max(...[...Reveal.getCurrentSlide().querySelectorAll('h1,h2,p,li,img,table,pre')].filter(
  e => !e.closest('aside') && e.getBoundingClientRect().height).map(e => e.getBoundingClientRect().bottom)) / innerHeight"""


@needs_reveal
def test_a_talk_goes_from_the_first_slide_to_the_last_offline(tab, page, walk):
    steps, seen = len(tagged(walk, "slide")) + len(tagged(walk, "fragment")) - 1, 1
    for _ in range(steps):
        assert tab.evaluate(LOWEST) < 1, f"slide {seen} is longer than the screen"
        assert tab.evaluate("Reveal.getSlideNotes().length") > 20, f"slide {seen} has no notes"
        tab.keyboard.press("ArrowRight")
        seen += 1
    assert tab.evaluate("Reveal.isLastSlide()") and tab.evaluate(LOWEST) < 1
    assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth && i.alt)")
    assert [
        u for u in tab.asked if not u.startswith("data:") and u.split("#")[0] != page.as_uri()
    ] == []
    assert tab.answer == []


@needs_reveal
def test_s_opens_the_notes_offline(tab):
    with tab.context.expect_page() as opened:
        tab.keyboard.press("s")
    opened.value.wait_for_function(
        "document.querySelector('.speaker-controls-notes .value')?.textContent.includes('Asked')"
    )
    tab.keyboard.press("ArrowRight")
    opened.value.wait_for_function(
        "document.querySelector('.speaker-controls-notes .value').textContent.includes('baseline')"
    )
    assert [u for u in tab.asked if not u.startswith(("data:", "file:", "about:"))] == []


@needs_reveal
def test_who_wants_no_motion_gets_the_still(chromium, page):
    context = chromium.new_context(reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_function("window.Reveal && Reveal.isReady()")
    assert tab.evaluate("document.querySelector('picture img').currentSrc").startswith(
        "data:image/png"
    )
    context.close()
