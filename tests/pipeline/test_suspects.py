"Decisions about labels: training uses them, runs and ledger name them, and a person makes them by clicking and by keys."

import json
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import TOP, cvlab, environ, run_inline

from cvlab.core.params import plain, read_yaml
from cvlab.data.fixtures import SMOKE, tiny_folder
from cvlab.data.samples import DECIDED, DECISIONS, find_samples, read_decisions, write_decisions
from cvlab.runs.ledger import read_ledger
from cvlab.studies.clicks import write_clicks


@pytest.fixture
def photos(tmp_path):
    return tiny_folder(tmp_path / "photos", 40)


def decisions(samples, n_relabel=1, n_remove=1):
    "The first images get the other label, the next are removed."
    rows = []
    for i, s in enumerate(samples.head(n_relabel + n_remove).itertuples()):
        other = {"disc": "square", "square": "disc"}[s.label]
        what = ("relabel", other) if i < n_relabel else ("remove", "")
        rows.append((s.id, s.path, s.label, *what, "ann"))
    return pd.DataFrame(rows, columns=DECIDED)


def prepared(root, photos, *overrides):
    run_inline("prepare", root / "prepare", [*SMOKE, f"data.path={photos}", *overrides])
    split = pd.read_csv(root / "prepare" / "split.csv", dtype=str).set_index("path")
    return split, plain(read_yaml(root / "prepare" / "params.yaml"))


def test_decisions_are_used_and_named(tmp_path, photos):
    samples = find_samples(photos)
    write_decisions(tmp_path / "mine.csv", decisions(samples))
    before, plain_params = prepared(tmp_path / "a", photos)
    after, params = prepared(tmp_path / "b", photos, f"data.decisions={tmp_path / 'mine.csv'}")
    first, second = samples.path[0], samples.path[1]
    assert (before.label[first], after.label[first]) == ("disc", "square")
    assert second in before.index and second not in after.index
    assert len(after) == len(before) - 1
    assert "decisions" not in plain_params
    assert re.fullmatch(r"mine.csv [0-9a-f]{12} \(1 relabel, 1 remove\)", params["decisions"])
    assert params["data"] != plain_params["data"]
    why = read_ledger(tmp_path / "b" / "ledger.csv").why
    assert why.str.endswith(f"; labels decided by {params['decisions']}").all()


def test_decisions_beside_the_images_are_found_and_can_be_left_out(tmp_path, photos):
    write_decisions(photos / DECISIONS, decisions(find_samples(photos)))
    after, params = prepared(tmp_path / "b", photos)
    assert len(after) == 39 and params["decisions"].startswith(DECISIONS)
    whole, params = prepared(tmp_path / "c", photos, "data.decisions=none")
    assert len(whole) == 40 and "decisions" not in params
    # a later stage finds them in the prepare stage's parameters
    run_inline("baseline", tmp_path / "b" / "baseline", [*SMOKE, f"data.path={photos}"])
    ledger = read_ledger(tmp_path / "b" / "ledger.csv")
    assert ledger.why[ledger.stage == "baseline"].str.contains(DECISIONS).all()


def test_twenty_removed_images_need_no_confirmation(photos):
    mixed = find_samples(photos).sample(frac=1, random_state=0)  # of both classes
    write_decisions(photos / DECISIONS, decisions(mixed, 0, 22))
    code, out, _ = cvlab("data", "check", photos)
    assert code == 0 and "18 images of 2 classes" in out
    assert "labels decided by label_decisions.csv" in out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(was="ring", label="ball"), "the decision to relabel it was about 'ring'"),
        (dict(id="f" * 16), "is not the file that somebody decided about"),
        (dict(decision="drop"), "the decision 'drop' is none of keep, relabel, remove"),
        (dict(label=""), "relabel, and no label"),
    ],
)
def test_a_decision_about_something_else_stops_before_the_training(tmp_path, photos, change, says):
    table = decisions(find_samples(photos), 1, 0)
    for column, value in change.items():
        table.loc[0, column] = value
    table.to_csv(tmp_path / "odd.csv", index=False)
    words = ["train", "--data", photos, "--out", tmp_path / "out", "--recipe", "params"]
    code, out, err = cvlab(*words, "--decisions", tmp_path / "odd.csv")
    assert code == 1 and says in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


def test_a_detector_takes_no_decisions(tmp_path, photos):
    words = ["task=detect", "model.name=one_stage", f"data.decisions={tmp_path / 'd.csv'}"]
    words += ["--recipe", "params"]
    code, _, err = cvlab("train", "--data", photos, "--out", tmp_path / "out", *words)
    assert code == 1 and "data.decisions" in err


# the page in a browser


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def jupyter(tmp_path):
    "JupyterLab on a folder, as a person starts it: address of the server."
    work, port = tmp_path / "work", free_port()
    work.mkdir()
    words = [
        "-m",
        "jupyterlab",
        "--no-browser",
        f"--port={port}",
        "--ServerApp.token=",
        "--allow-root",
    ]
    own = {
        k: str(tmp_path / k)
        for k in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    words += ["--ServerApp.password=", f"--ServerApp.root_dir={work}", "--LabApp.news_url=none"]
    server = subprocess.Popen(
        [sys.executable, *words],
        env={**environ(TOP), **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield work, f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)


@pytest.mark.slow
def test_a_person_clicks_and_types_in_jupyterlab(chromium, jupyter, photos):
    work, address = jupyter
    samples = find_samples(photos)
    write_clicks(work, samples.assign(suggested="square").head(6), photos, ["disc", "square"])
    file = work / DECISIONS

    def made():
        return read_decisions(file).decision.tolist() if file.exists() else []

    page = chromium.new_page()
    for _ in range(60):
        try:
            page.goto(f"{address}/lab/tree/clicks.ipynb")
            break
        except Exception:
            time.sleep(1)
    page.locator(".jp-CodeCell").first.click(timeout=90_000)
    page.wait_for_timeout(3000)
    page.keyboard.press("Shift+Enter")
    box = page.locator(".cvlab-clicks")
    box.wait_for(timeout=90_000)
    assert box.locator("img").is_visible()
    box.get_by_text("2 square").click()  # by the mouse
    until(lambda: len(made()) == 1)
    box.hover()
    for n, key in enumerate(("k", "x", "1"), 2):  # by keys, which JupyterLab must not take
        page.keyboard.press(key)
        until(lambda n=n: len(made()) == n)
    assert sorted(made()) == ["keep", "keep", "relabel", "remove"]
    page.keyboard.press("b")
    until(lambda: len(made()) == 3)
    # nobody's cell has become a heading or was deleted
    nb = json.loads((work / "clicks.ipynb").read_text())
    assert [c["cell_type"] for c in nb["cells"]] == ["markdown", "code"]
    # a new page goes on where the last one stopped
    page.close()
    from cvlab.studies.clicks import open_clicks

    again = open_clicks(work)
    assert (again.at, again.left) == (3, 3)


# parity with scikit-activeml, where it is installed


@pytest.fixture
def pool():
    from sklearn.datasets import make_blobs

    from cvlab.studies.active import UNKNOWN, Pool
    from cvlab.studies.suspects import unit

    x, y = make_blobs(200, 12, centers=5, cluster_std=3.0, random_state=0)
    known = np.full(200, UNKNOWN)
    known[:10] = y[:10]
    return Pool(unit(x).astype(np.float64), known, 5, np.random.default_rng(0))


def test_core_set_is_that_of_the_library(pool):
    library = pytest.importorskip("skactiveml.pool", reason="the extra `active` is not installed")
    from cvlab.studies.active import core_set

    theirs = library.CoreSet(missing_label=-1, random_state=0).query(pool.x, pool.y, batch_size=15)
    assert core_set(pool, 15).tolist() == list(theirs)


def test_typical_images_are_those_of_the_library(pool):
    library = pytest.importorskip("skactiveml.pool", reason="the extra `active` is not installed")
    from sklearn.cluster import KMeans

    from cvlab.studies.active import typiclust

    rng = np.random.default_rng(0)
    seed = int(rng.integers(2**31))
    how = dict(n_init=1, random_state=seed)
    theirs = library.TypiClust(-1, 0, KMeans, how, k=20).query(pool.x, pool.y, batch_size=6)
    ours = typiclust(pool, 6)
    # squared distances here, distances there: the densest image may differ, the clusters do not
    labels = KMeans(16, **how).fit(pool.x).labels_
    assert sorted(labels[ours]) == sorted(labels[list(theirs)])


def test_badge_starts_and_spreads_as_the_library(pool):
    library = pytest.importorskip("skactiveml.pool", reason="the extra `active` is not installed")
    from skactiveml.classifier import SklearnClassifier
    from sklearn.linear_model import LogisticRegression

    from cvlab.studies.active import badge

    head = SklearnClassifier(
        LogisticRegression(C=10.0, max_iter=2000), classes=list(range(5)), missing_label=-1
    )
    theirs, weights = library.Badge(missing_label=-1, random_state=0).query(
        pool.x, pool.y, head, batch_size=2, return_utilities=True
    )
    draws = []

    class Drawn(np.random.Generator):
        def choice(self, n, p):
            draws.append(p)
            return super().choice(n, p=p)

    ours = badge(replace(pool, rng=Drawn(np.random.PCG64(0))), 2)
    assert ours[0] == theirs[0]  # the largest gradient
    p = pool.head(pool.x[pool.open])
    u = p - np.eye(5)[p.argmax(1)]
    g = (u[:, :, None] * pool.x[pool.open][:, None]).reshape(len(u), -1)
    d2 = ((g - g[np.flatnonzero(pool.open == ours[0])[0]]) ** 2).sum(1)
    np.testing.assert_allclose(draws, [d2 / d2.sum()], atol=1e-9)
    # the library keeps its distances from the origin as well, which the program of the paper does not
    d2 = np.minimum(d2, (g**2).sum(1))
    np.testing.assert_allclose(np.nan_to_num(weights[1][pool.open]), d2 / d2.sum(), atol=1e-3)


def test_an_exported_file_is_explained_without_gradients(tmp_path, photos):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    from cvlab.models.create import create_model, save_model

    info = dict(name="small_cnn", classes=["disc", "square"], size=32, side=32, head="linear")
    save_model(
        tmp_path / "run", create_model("small_cnn", 2, size=32), {**info, "normalise": "half"}
    )
    code, _, err = cvlab("export", "--run", tmp_path / "run", "--out", tmp_path / "exported")
    assert code == 0, err
    words = [
        "explain",
        "--run",
        tmp_path / "exported",
        photos / "disc",
        "--out",
        tmp_path / "why.png",
    ]
    code, _, err = cvlab(*words, "--method", "occlusion")
    assert code == 0 and (tmp_path / "why.png").stat().st_size > 5000, err
    code, _, err = cvlab(*words, "--method", "gradcam")
    assert code == 1 and "needs gradients, which an exported file has not" in err


# the same order as cleanlab's, where it is installed


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "adjusted"), [("model", False), ("adjusted", True)])
def test_labels_are_in_the_order_of_cleanlab(ours, adjusted):
    library = pytest.importorskip("cleanlab.rank", reason="the extra `peers` is not installed")
    from sklearn.datasets import make_blobs

    from cvlab.studies.suspects import SCORES, opinions, unit

    x, y = make_blobs(600, 16, centers=6, cluster_std=6, random_state=3)
    rng = np.random.default_rng(0)
    wrong = rng.random(600) < 0.1
    y[wrong] = (y[wrong] + rng.integers(1, 6, wrong.sum())) % 6
    op = opinions(unit(x), y.astype(str))
    quality = library.get_label_quality_scores(
        op.y, op.probs, method="self_confidence", adjust_pred_probs=adjusted
    )
    assert (np.argsort(-SCORES[ours](op)) == np.argsort(quality)).all()
    assert (np.argsort(-SCORES["both"](op)) != np.argsort(quality)).any()
