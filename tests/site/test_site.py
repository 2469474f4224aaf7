"The documentation site as it is built: every page opened in a browser without the internet, every link followed."

import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import pytest
from conftest import BIN, TOP

import cvlab.cli.main
from cvlab.core.params import flat, resolve
from cvlab.docs.site import NEEDED, build_site


class Page(HTMLParser):
    "What a page links to, loads and shows."

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.mute, self.alts = set(), [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if "id" in a:
            self.ids.add(a["id"])
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag == "script" and a.get("src"):
            self.loads.append(a["src"])
        if tag == "link" and "stylesheet" in a.get("rel", ""):
            self.loads.append(a["href"])
        if tag == "img":
            self.loads.append(a["src"])
            alt = (a.get("alt") or "").strip()
            self.alts.append(alt)
            if alt in ("", a["src"]) or re.fullmatch(r"\S+\.(png|jpe?g|gif|svg)", alt):
                self.mute.append(a["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The folder of the site."
    for module in NEEDED:
        pytest.importorskip(
            module,
            reason="the extra docs is missing: pip install --require-hashes "
            "-r requirements/docs.txt",
        )
    return build_site(tmp_path_factory.mktemp("site") / "site").parent


@pytest.fixture(scope="module")
def parsed(site):
    "Every page but the talk, which test_slides.py opens."
    found = (
        p
        for p in sorted(site.rglob("*.html"))
        if "_static" not in p.parts and p.name != "slides.html"
    )
    return {p: Page(p.read_text(encoding="utf-8")) for p in found}


def shot(page, name):
    "An image for a person who wants to see it: `CVLAB_SHOTS=folder pytest tests/site/test_site.py`."
    if folder := os.environ.get("CVLAB_SHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def test_there_is_a_page_for_each_notebook_and_run(site):
    for name in (
        "index",
        "first_steps",
        "TRAINING_RESULTS",
        "claims",
        "nbs/training/01_learner",
        "nbs/tutorials/bring_your_own",
        "runs/train/default/seed-0/train",
        "runs/cards/default/seed-0/MODEL_CARD",
        "troubleshooting",
    ):
        assert (site / f"{name}.html").exists(), name


def test_every_link_and_every_anchor_is_there(site, parsed):
    dead = []
    for page, p in parsed.items():
        for link in [*p.links, *p.loads]:
            url = urlsplit(link)
            if url.scheme or link == "#":
                continue
            to = (page.parent / unquote(url.path)).resolve() if url.path else page
            if not to.is_file():
                dead.append((page.name, link))
            elif url.fragment and to in parsed and unquote(url.fragment) not in parsed[to].ids:
                dead.append((page.name, link))
    assert not dead, dead[:20]


def test_every_image_has_a_text(parsed):
    assert sum(len(p.alts) for p in parsed.values()) > 100
    assert not (mute := [(page.name, src) for page, p in parsed.items() for src in p.mute]), mute[
        :20
    ]
    same = {
        page.name: [t for t in set(p.alts) if p.alts.count(t) > 1] for page, p in parsed.items()
    }
    assert not (same := {page: texts for page, texts in same.items() if texts}), same
    assert not [t for p in parsed.values() for t in p.alts if t.endswith(":")], (
        "a sentence that only leads to it"
    )


def test_nothing_is_loaded_from_elsewhere(site, parsed):
    assert not [
        x for p in parsed.values() for x in p.loads if urlsplit(x).scheme not in ("", "data")
    ]
    for css in site.rglob("*.css"):
        assert not re.search(
            r"url\([\"']?https?:|@import\s+[\"']?https?:", css.read_text(encoding="utf-8")
        ), css


def test_pages_are_small(parsed):
    heavy = {page.name: page.stat().st_size for page in parsed if page.stat().st_size > 1_000_000}
    assert not heavy


def test_the_talk_and_the_film_are_there(site):
    assert (site / "slides.html").stat().st_size > 100_000 and (
        site / "timelapse.gif"
    ).read_bytes()[:3] == b"GIF"
    assert (site / "timelapse.png").exists() and 'href="slides.html"' in (
        site / "showing.html"
    ).read_text(encoding="utf-8")


def test_math_is_drawn_by_the_browser_itself(site):
    assert "<math" in (site / "nbs/evaluation/02_compare.html").read_text(encoding="utf-8")


def test_names_lead_to_where_they_are_described(site, parsed):
    links = {link for page in parsed.values() for link in page.links}
    for name in (
        "01_params.html#resolve",
        "06_loaders.html#batches",
        "01_learner.html#create-learner",
    ):
        assert any(link.endswith(name) for link in links), name
    assert "resolve" in parsed[site / "nbs/core/01_params.html"].ids


CUT = """[...document.querySelectorAll("article table")].filter(t =>
  t.getBoundingClientRect().right > innerWidth + 1).map(t => t.innerText.slice(0, 40))"""


def test_it_is_walked_in_a_browser_without_a_network(site, parsed, chromium):
    "No error in the console, no request that leaves, nothing wider than a telephone."
    context = chromium.new_context(viewport=dict(width=390, height=844), offline=True)
    tab, answer = context.new_page(), []
    tab.on("console", lambda m: answer.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: answer.append(str(e)))
    tab.on(
        "request",
        lambda r: (
            answer.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
        ),
    )
    wide, cut = {}, {}
    for page in parsed:
        tab.goto(page.as_uri(), wait_until="load")
        if tables := tab.evaluate(CUT):
            cut[page.name] = tables
        if over := tab.evaluate("document.documentElement.scrollWidth - window.innerWidth"):
            wide[page.name] = over
        assert not answer, (page, answer)
        if page.stem in ("index", "TRAINING_RESULTS"):
            shot(tab, f"phone-{page.stem}")
    tab.goto((site / "first_steps.html").as_uri())
    entry = tab.locator(".pst-primary-sidebar a, .bd-sidebar-primary a", has_text="How to").first
    assert not entry.is_visible()
    tab.click("button.primary-toggle")
    entry.wait_for(state="visible")
    tab.wait_for_timeout(400)
    shot(tab, "phone-menu")
    entry.click()
    tab.wait_for_url("**/how_to.html")
    assert not answer, answer
    context.close()
    assert not wide, wide
    assert not cut, cut  # tables with a head are cards there


SHOWN = (
    "index",
    "TRAINING_RESULTS",
    "claims",
    "first_steps",
    "troubleshooting",
    "nbs/training/01_learner",
    "nbs/tutorials/training_analysis",
    "runs/compare/compare",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(site, chromium, scheme):
    look = (TOP / "tests/site/contrast.js").read_text()
    tab = chromium.new_context(color_scheme=scheme, offline=True).new_page()
    pages = *SHOWN, "results/speed", "runs/train/default/seed-0/train", "nbs/tutorials/walkthrough"
    found = {}
    for name in pages:
        tab.goto((site / f"{name}.html").as_uri())
        if bad := tab.evaluate(look):
            found[name] = bad
    tab.context.close()
    assert not found, found


def test_a_run_opens_with_its_result(site, chromium):
    tab = chromium.new_context(offline=True, viewport=dict(width=1280, height=900)).new_page()
    tab.goto((site / "runs/train/default/seed-0/train.html").as_uri())
    assert "default seed-0" in tab.title()
    assert tab.locator("article img").first.bounding_box()["y"] < 900
    assert not tab.get_by_text("folder with one subfolder of images per class").is_visible()
    tab.context.close()


def test_search_finds_without_a_server(site, chromium):
    tab = chromium.new_context(offline=True).new_page()
    tab.goto((site / "search.html").as_uri() + "?q=lr_find")
    # results appear one after another
    tab.wait_for_selector("ul.search li a[href*='03_lr_finder']", timeout=20_000)
    tab.context.close()


@pytest.mark.skipif(
    "CVLAB_SHOTS" not in os.environ, reason="only for a person who looks: CVLAB_SHOTS=folder"
)
def test_pages_are_shown_to_a_person(site, chromium):
    tab = chromium.new_context(
        color_scheme="light", offline=True, viewport=dict(width=1280, height=900)
    ).new_page()
    for name in SHOWN:
        tab.goto((site / f"{name}.html").as_uri())
        shot(tab, f"light-{Path(name).name}")
    tab.context.close()


def test_dark_follows_the_reader_and_the_button(site, chromium):
    colour = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        tab = chromium.new_context(
            color_scheme=scheme, offline=True, viewport=dict(width=1280, height=800)
        ).new_page()
        tab.goto((site / "nbs/training/03_lr_finder.html").as_uri())
        seen[scheme] = sum(map(int, re.findall(r"\d+", tab.evaluate(colour))[:3]))
        if scheme == "light":
            tab.click("button.theme-switch-button")
            tab.click("button.theme-change-button[data-mode=dark]:visible")
            seen["pressed"] = tab.evaluate("document.documentElement.dataset.theme")
        for name in SHOWN if os.environ.get("CVLAB_SHOTS") and scheme == "dark" else ():
            tab.goto((site / f"{name}.html").as_uri())
            shot(tab, f"dark-{Path(name).name}")
        tab.context.close()
    assert seen["light"] > 600 > 200 > seen["dark"] and seen["pressed"] == "dark", seen


def guides():
    "The commands that the pages of the site and the README tell a reader to type, in fences and between backticks."
    for page in [*sorted((TOP / "nbs/pages/site").glob("*.md")), TOP / "README.md"]:
        text = page.read_text(encoding="utf-8")
        fences = re.findall(r"^ *```\n(.*?)^ *```", text, re.S | re.M)
        rest = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
        inline = re.findall(r"(?<!`)`((?:cvlab|make) [^`\n]+)`", rest)
        for line in (*"\n".join(fences).splitlines(), *inline):
            line = line.split(" #")[0].strip()
            named = line.split()[-1:] == ["--data"]  # the option is meant, not the command
            if line.startswith(("cvlab ", "make ")) and "..." not in line and not named:
                yield page.name, line


@pytest.mark.parametrize("page, line", sorted(set(guides())))
def test_commands_of_the_guides_are_understood(page, line):
    "Command, options and every key=value: what a page says is what the program knows."
    if line.startswith("make "):
        return understood_by_make(line)
    import typer

    command, words = typer.main.get_command(cvlab.cli.main.app), shlex.split(line)[1:]
    context = None
    while hasattr(command, "commands") and words:
        name = words.pop(0)
        assert name in command.commands, f"{page}: {line}: there is no {name}"
        command, context = command.commands[name], context
    alone = not words  # a command that is only named
    context = command.make_context(command.name, words, resilient_parsing=alone)

    def known(o):
        return not o.startswith(("preset=advice", "model.weights=~", "preset=~"))

    settings = [o for o in context.params.get("overrides") or () if known(o)]
    resolve(TOP / "params.yaml", context.params.get("experiment") or "", settings)
    context.close()


def understood_by_make(line):
    "Its targets are in the Makefile, and each variable is one that a recipe asks for."
    text = (TOP / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", text, re.M))
    for word in shlex.split(line)[1:]:
        name, _, value = word.partition("=")
        assert f"$({name})" in text if _ else name in targets, f"{line}: make knows no {name}"


@pytest.mark.parametrize(
    "line, does",
    [
        ("check DATA=~/photos", ["cvlab data check ~/photos"]),
        ("check", ["cvlab data check data"]),
        ("quick DATA=a OUT=b", ["cvlab train --data a --out b-quick --fast"]),
        ("train DATA=a OUT=b EPOCHS=100", ["cvlab train --data a --out b train.epochs=100"]),
        (
            "train ARGS=model.name=resnet18",
            ["cvlab train --data data --out runs/local/own model.name=resnet18"],
        ),
        ("evaluate OUT=b", ["cvlab evaluate --run b --subset test"]),
        (
            "compare DATA=a OUT=b PRESET=fast_dev",
            ["cvlab crossval --data a --out b-folds preset=fast_dev"],
        ),
        ("full-test", [".ci/test full", "cvlab verify"]),
    ],
)
def test_the_front_door_says_what_it_does(line, does):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))} | dict(
        HOME="~"
    )
    say = ["make", "-n", "-o", "install", *line.split()]
    done = subprocess.run(say, cwd=TOP, env=env, capture_output=True, text=True)
    assert [" ".join(subset.split()) for subset in done.stdout.splitlines()] == does, done.stderr


@pytest.fixture
def preview(tmp_path):
    """`make docs-serve` in a fresh folder, with a stand-in for `cvlab docs --sources` that writes one page with the
    library's own `level`: the address, the page, and a log of the times that it was called."""
    if shutil.which("sphinx-autobuild") is None:
        pytest.skip("the extra docs is missing")
    (tmp_path / "nbs").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(TOP / "Makefile", tmp_path)
    page, log = tmp_path / "nbs/page.md", tmp_path / "log"
    page.write_text("# First\n")
    program = tmp_path / "bin/cvlab"
    program.write_text(f"""#!{BIN / "python"}
import pathlib, tempfile
from cvlab.docs.site import level
with tempfile.TemporaryDirectory() as made:
    made = pathlib.Path(made)
    (made/"index.rst").write_text(open("nbs/page.md").read().replace("# ", "") + "\\n" + "="*20 + "\\n")
    (made/"conf.py").write_text("project = 'x'")
    level(made, pathlib.Path(".cvlab/site"))
print("called", file=open("log", "a"))
""")
    program.chmod(0o755)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    env |= dict(
        PATH=f"{tmp_path / 'bin'}{os.pathsep}{BIN}{os.pathsep}{env['PATH']}", PYTHONPATH=str(TOP)
    )
    say = ["make", "-o", "extra-docs", "docs-serve", f"PORT={port}"]

    def start():
        return subprocess.Popen(
            say,
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    server = start()
    yield f"http://127.0.0.1:{port}/index.html", page, log, start
    os.killpg(server.pid, 15)
    server.wait(timeout=20)


def served(address, words, seconds=90):
    "Wait until a page says so."
    for _ in range(seconds * 5):
        try:
            if words in urlopen(address, timeout=5).read().decode():
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"{address} does not say {words}")


def test_a_saved_page_is_served_after_one_build(preview):
    "On a fresh clone, where nothing was written yet; and a port that is taken is a line."
    address, page, log, start = preview
    served(address, "First")
    calls = len(log.read_text().split())
    page.write_text("# Second\n")
    served(address, "Second")
    time.sleep(3)
    assert len(log.read_text().split()) == calls + 1
    second = start()
    assert (
        "is taken; name another one with make docs-serve PORT=" in second.communicate(timeout=30)[0]
    )
    assert second.returncode


def test_parameters_that_the_pages_name_exist():
    "Every `section.key` or `section.key=value` in backticks."
    known = set(flat(resolve(TOP / "params.yaml")))
    sections = {k.split(".")[0] for k in known}
    for page in sorted((TOP / "nbs/pages/site").glob("*.md")):
        for words in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
            for section, key in re.findall(r"(?<![\w/.~-])(\w+)\.(\w+|\*)(?==|$|\s)", words):
                if section in sections and key not in ("dvc", "ipynb", "onnx", "json", "pt2"):
                    assert key == "*" or f"{section}.{key}" in known, f"{page.name}: `{words}`"
