"README.md and TRAINING_RESULTS.md say what the committed files say."
import re

import pytest
from conftest import TOP

from cvlab.core.params import read_yaml, resolve
from cvlab.data.samples import read_split
from cvlab.evaluation.metrics import evaluate, over_seeds, read_predictions
from cvlab.evidence.claims import check_text, load_claims

PAGES = ["README.md", "TRAINING_RESULTS.md"]


@pytest.fixture(scope="module")
def claims():
    return load_claims(TOP/"nbs"/"pages"/"claims.yaml", resolve(TOP/"params.yaml"),
                       sorted(read_split(TOP/"runs/prepare/split.csv").label.unique()))


@pytest.mark.parametrize("page", PAGES)
def test_every_number_is_a_claim_and_holds(page, claims):
    assert check_text((TOP/page).read_text(), claims, TOP) == []


@pytest.mark.parametrize("page", PAGES)
def test_any_changed_digit_of_a_claim_is_caught(page, claims):
    text = (TOP/page).read_text()
    marks = list(re.finditer(r"(\d)<!--claim:[^>]+-->", text))
    assert len(marks) > 10
    for m in marks[::max(1, len(marks)//25)]:
        changed = text[:m.start(1)] + str((int(m[1]) + 1) % 10) + text[m.end(1):]
        assert check_text(changed, claims, TOP), m[0]


def cells(row): return row.strip().strip("|").count("|")


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_tables(page):
    "Each row under its header with as many cells, and blank lines around: a lost newline melts a table into one line."
    blocks = [b.splitlines() for b in re.split(r"\n\s*\n", re.sub(r"(?s)```.*?```", "",
                                                                  (TOP/page).read_text()))]
    tables = [b for b in blocks if any("|" in item for item in b)]
    assert len(tables) >= 2
    for header, rule, *rows in tables:
        assert re.fullmatch(r"\|(---\|)+", rule) and rows, header
        assert {cells(r) for r in (rule, *rows)} == {cells(header)} and all(r[0] == r[-1] == "|" for r in rows), header


def links(text):
    return [item for item in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in item]


def leads_somewhere(link, page):
    "Is there the file, and the heading if one is named? A link without a file leads to its own page."
    path, _, heading = link.partition("#")
    path = path or page
    titles = re.findall(r"^#+ (.*)$", (TOP/path).read_text(), re.M) if heading else []
    return (TOP/path).exists() and heading in ["", *("-".join(re.findall(r"[\w-]+", t.lower())) for t in titles)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (TOP/page).read_text()
    assert links(text) and not (dead := [line for line in links(text) if not leads_somewhere(line, page)]), dead


@pytest.mark.parametrize("page", PAGES)
def test_pages_come_from_a_finished_pipeline(page):
    "The page is the one that dvc.lock's report stage wrote."
    import hashlib
    out = next(o for o in read_yaml(TOP/"dvc.lock")["stages"]["report"]["outs"]
               if o["path"] == page)
    assert hashlib.md5((TOP/page).read_bytes()).hexdigest() == out["md5"]


def test_the_dataset_is_neither_trivial_nor_hopeless(claims):
    "Means over the committed seeds: colours alone are not enough, the default model is."
    baseline = evaluate(read_predictions(TOP/"runs/baseline/histogram.csv"))["accuracy"]
    nets = [evaluate(read_predictions(p))["accuracy"]
            for p in (TOP/"runs/evaluate/default").glob("seed-*/predictions.csv")]
    assert baseline <= .80 and over_seeds(nets)["mean"] >= .95
