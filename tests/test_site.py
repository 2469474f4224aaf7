"The documentation site as it is built: every page opened in a browser without a network, every link and picture looked at."
import re, shlex
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import cvlab.cli
from cvlab.claims import expand_template
from cvlab.core import flat, resolve
from cvlab.site import NEEDED, build_site

TOP = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    "What a page links to, loads and shows."
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.mute, self.count = set(), [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if "id" in a: self.ids.add(a["id"])
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag == "script" and a.get("src"): self.loads.append(a["src"])
        if tag == "link" and "stylesheet" in a.get("rel", ""): self.loads.append(a["href"])
        if tag == "img":
            self.count += 1
            self.loads.append(a["src"])
            if not (a.get("alt") or "").strip() or a["alt"] == a["src"] or re.fullmatch(r"\S+\.(png|jpe?g|gif|svg)", a["alt"]):
                self.mute.append(a["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The folder of the site."
    for module in NEEDED: pytest.importorskip(module, reason="the extra docs is missing: pip install --require-hashes -r requirements-docs.txt")
    return build_site(tmp_path_factory.mktemp("site")/"site").parent


@pytest.fixture(scope="module")
def parsed(site): return {p: Page(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html")) if "_static" not in p.parts and p.name != "slides.html"} # the talk: test_slides.py


def test_there_is_a_page_for_each_notebook_and_run(site):
    for name in ("index", "first_steps", "TRAINING_RESULTS", "claims", "nbs/40_trainer", "nbs/tutorials/bring_your_own",
                 "runs/train/default/seed-0/train", "runs/cards/default/seed-0/MODEL_CARD", "troubleshooting"):
        assert (site/f"{name}.html").exists(), name


def test_every_link_and_every_anchor_is_there(site, parsed):
    dead = []
    for page, p in parsed.items():
        for link in [*p.links, *p.loads]:
            url = urlsplit(link)
            if url.scheme or link == "#": continue
            to = (page.parent/unquote(url.path)).resolve() if url.path else page
            if not to.is_file(): dead.append((page.name, link))
            elif url.fragment and to in parsed and unquote(url.fragment) not in parsed[to].ids: dead.append((page.name, link))
    assert not dead, dead[:20]


def test_every_picture_has_a_text(parsed):
    assert sum(p.count for p in parsed.values()) > 100
    assert not (mute := [(page.name, src) for page, p in parsed.items() for src in p.mute]), mute[:20]


def test_nothing_is_loaded_from_elsewhere(site, parsed):
    assert not [x for p in parsed.values() for x in p.loads if urlsplit(x).scheme not in ("", "data")]
    for css in site.rglob("*.css"): assert not re.search(r"url\([\"']?https?:|@import\s+[\"']?https?:", css.read_text(encoding="utf-8")), css


def test_pages_are_small(parsed):
    heavy = {page.name: page.stat().st_size for page in parsed if page.stat().st_size > 1_000_000}
    assert not heavy


def test_the_talk_and_the_film_are_there(site):
    assert (site/"slides.html").stat().st_size > 100_000 and (site/"timelapse.gif").read_bytes()[:3] == b"GIF"
    assert (site/"timelapse.png").exists() and 'href="slides.html"' in (site/"showing.html").read_text(encoding="utf-8")


def test_math_is_drawn_by_the_browser_itself(site):
    assert "<math" in (site/"nbs/32_effects.html").read_text(encoding="utf-8")


def test_names_lead_to_where_they_are_described(site, parsed):
    assert any(link.endswith("00_core.html#resolve") for link in parsed[site/"nbs/44_runs.html"].links) or \
        any("00_core.html#" in link for page in parsed.values() for link in page.links)
    assert "resolve" in parsed[site/"nbs/00_core.html"].ids


def test_it_is_walked_in_a_browser_without_a_network(site, parsed, chromium):
    "No error in the console, no request that leaves, nothing wider than a telephone."
    context = chromium.new_context(viewport=dict(width=390, height=844), offline=True)
    tab, said = context.new_page(), []
    tab.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: said.append(str(e)))
    tab.on("request", lambda r: said.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    wide = {}
    for page in parsed:
        tab.goto(page.as_uri(), wait_until="load")
        if over := tab.evaluate("document.documentElement.scrollWidth - window.innerWidth"): wide[page.name] = over
        assert not said, (page, said)
    context.close()
    assert not wide, wide


def test_search_finds_without_a_server(site, chromium):
    tab = chromium.new_context(offline=True).new_page()
    tab.goto((site/"search.html").as_uri() + "?q=lr_find")
    tab.wait_for_selector("ul.search li a[href*='41_lr_finder']", timeout=20_000) # results appear one after another
    tab.context.close()


def test_dark_follows_the_reader_and_the_button(site, chromium):
    colour = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        tab = chromium.new_context(color_scheme=scheme, offline=True, viewport=dict(width=1280, height=800)).new_page()
        tab.goto((site/"nbs/41_lr_finder.html").as_uri())
        seen[scheme] = sum(map(int, re.findall(r"\d+", tab.evaluate(colour))[:3]))
        if scheme == "light":
            tab.click("button.theme-switch-button")
            tab.click("button[data-mode=dark], [data-theme-choice=dark], .dropdown-menu [data-mode=dark]") if tab.query_selector(
                "[data-mode=dark]") else None
            seen["pressed"] = tab.evaluate("document.documentElement.dataset.theme")
        tab.context.close()
    assert seen["light"] > 600 > 200 > seen["dark"] and seen["pressed"] == "dark", seen


def guides():
    "The commands that the pages of the site and the README tell a reader to type."
    for page in [*sorted((TOP/"nbs/site").glob("*.md")), TOP/"README.md"]:
        for fence in re.findall(r"^ *```\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.S | re.M):
            for line in fence.splitlines():
                line = line.split(" #")[0].strip()
                if line.startswith("cvlab "): yield page.name, line


@pytest.mark.parametrize("page, line", sorted(set(guides())))
def test_commands_of_the_guides_are_understood(page, line):
    "Command, options and every key=value: what a page says is what the program knows."
    import typer
    command, words = typer.main.get_command(cvlab.cli.app), shlex.split(line)[1:]
    context = None
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"{page}: {line}: there is no {name}"
        command, context = command.commands[name], context
    context = command.make_context(command.name, words, resilient_parsing=False)
    settings = [o for o in context.params.get("overrides") or () if not o.startswith(("preset=advice", "model.weights=~"))]
    resolve(TOP/"params.yaml", context.params.get("experiment") or "", settings)
    context.close()


def test_parameters_that_the_pages_name_exist():
    "Every `section.key` or `section.key=value` in backticks."
    known = set(flat(resolve(TOP/"params.yaml")))
    sections = {k.split(".")[0] for k in known}
    for page in sorted((TOP/"nbs/site").glob("*.md")):
        for words in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
            for section, key in re.findall(r"(?<![\w/.~-])(\w+)\.(\w+|\*)(?==|$|\s)", words):
                if section in sections and key not in ("dvc", "ipynb"): assert key == "*" or f"{section}.{key}" in known, f"{page.name}: `{words}`"
