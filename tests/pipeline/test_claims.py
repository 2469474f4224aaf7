"The numbers in README.md, TRAINING_RESULTS.md and results/ are those of the committed files."

import re

import pytest
from conftest import TOP

from cvlab.core.params import read_yaml, resolve
from cvlab.data.samples import read_split
from cvlab.evaluation.metrics import evaluate, over_seeds, read_predictions
from cvlab.evidence.claims import (
    bound_in,
    check_text,
    load_claims,
    mark,
    marked_page,
    template_text,
)
from cvlab.evidence.pages import page_templates

PAGES = list(page_templates(TOP))


@pytest.fixture(scope="module")
def claims():
    return load_claims(
        TOP / "nbs" / "pages" / "claims.yaml",
        resolve(TOP / "params.yaml"),
        sorted(read_split(TOP / "runs/prepare/split.csv").label.unique()),
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_number_is_a_claim_and_holds(page, claims):
    assert check_text(marked_page(page, TOP), claims, TOP) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_probability_is_not_one_in_a_fraction(page):
    "Claims are numbers such as 0.043; after 'one in' a reader expects a whole one."
    text = " ".join(template_text(page_templates(TOP)[page]).split())
    assert not re.search(r"\bone in \{\{claim:", text)


@pytest.mark.parametrize("page", PAGES)
def test_any_changed_digit_of_a_claim_is_caught(page, claims):
    lines, bound = (TOP / page).read_text().split("\n"), bound_in(page, TOP)
    assert len(bound) >= (5 if page == "results/parameters.md" else 10)
    for r in list(bound.itertuples())[:: max(1, len(bound) // 25)]:
        at = r.column - 2 + len(r.text)  # its last digit
        line = lines[r.line - 1]
        if not line[at].isdigit():
            continue  # a dash
        alone = [""] * len(lines)  # the other lines hold, see above
        alone[r.line - 1] = line[:at] + str((int(line[at]) + 1) % 10) + line[at + 1 :]
        own = bound[bound.line == r.line]
        problems = check_text(mark("\n".join(alone), own), claims, TOP)
        assert [
            f"line {r.line}: drifted" in p and f"claim {r.claim.split(':')[0]}" in p
            for p in problems
        ] == [True], (r, problems)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_reads_well_in_a_plain_editor(page):
    text = (TOP / page).read_text()
    assert "<!--" not in text and "{{" not in text
    assert len(text.encode()) <= (15_000 if page == "TRAINING_RESULTS.md" else 30_000)


def cells(row):
    return row.strip().strip("|").count("|")


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_tables(page):
    "Each row under its header with as many cells, and blank lines around: a lost newline melts a table into one line."
    blocks = [
        b.splitlines()
        for b in re.split(r"\n\s*\n", re.sub(r"(?s)```.*?```", "", (TOP / page).read_text()))
    ]
    tables = [b for b in blocks if any("|" in item for item in b)]
    assert tables
    for header, rule, *rows in tables:
        assert re.fullmatch(r"\|(---\|)+", rule) and rows, header
        assert {cells(r) for r in (rule, *rows)} == {cells(header)} and all(
            r[0] == r[-1] == "|" for r in rows
        ), header


def links(text):
    return [item for item in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in item]


def leads_somewhere(link, page):
    "Is there the file, and the heading if one is named? A link without a file leads to its own page."
    path, _, heading = link.partition("#")
    path = (TOP / page).parent / path if path else TOP / page
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M) if heading else []
    return path.exists() and heading in [
        "",
        *("-".join(re.findall(r"[\w-]+", t.lower())) for t in titles),
    ]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (TOP / page).read_text()
    assert not (dead := [line for line in links(text) if not leads_somewhere(line, page)]), dead


@pytest.mark.parametrize("page", PAGES)
def test_pages_come_from_a_finished_pipeline(page):
    "The page is the one that dvc.lock's report stage wrote."
    import hashlib

    outs = {o["path"]: o for o in read_yaml(TOP / "dvc.lock")["stages"]["report"]["outs"]}
    if page.startswith("results/"):  # a folder, with one hash of all its files
        assert outs["results"]["nfiles"] == sum(p.startswith("results/") for p in PAGES)
        return
    assert hashlib.md5((TOP / page).read_bytes()).hexdigest() == outs[page]["md5"]


def test_the_dataset_is_neither_trivial_nor_hopeless(claims):
    "Means over the committed seeds: colours alone are not enough, the default model is."
    baseline = evaluate(read_predictions(TOP / "runs/baseline/histogram.csv"))["accuracy"]
    nets = [
        evaluate(read_predictions(p))["accuracy"]
        for p in (TOP / "runs/evaluate/default").glob("seed-*/predictions.csv")
    ]
    assert baseline <= 0.80 and over_seeds(nets)["mean"] >= 0.95
