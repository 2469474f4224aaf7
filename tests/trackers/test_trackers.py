"Trackers as a person meets them: a training is the same with and without them, and nothing is lost or told twice."

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
from conftest import BIN, TOP, environ

from cvlab.bench.stages import make_lab
from cvlab.data.fixtures import tiny_folder
from cvlab.trackers.base import installed
from cvlab.trackers.courier import TRACKERS

PACKAGES = {n: "comet_ml" if n == "comet" else n for n in TRACKERS}
HERE = [n for n, p in PACKAGES.items() if installed(p)]
QUICK = "--recipe params data.size=32 train.batch_size=8 evaluate.samples=8 leakage.planted=8 train.threads=1".split()
night = pytest.mark.slow  # a minute each: by day one tracker is followed through a training
each = pytest.mark.parametrize("name", HERE)


@pytest.fixture
def lab(tmp_path):
    "A lab with trackers of its own, and images."
    folder = make_lab(tmp_path / "lab")
    tiny_folder(tmp_path / "photos", n=60)
    return folder


def start(lab, *words):
    words = [str(w) for w in words]
    return subprocess.Popen(
        [BIN / "cvlab", *words],
        cwd=lab,
        env=environ(TOP),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def cvlab(lab, *words):
    p = start(lab, *words)
    out, err = p.communicate(timeout=300)
    return p.returncode, out, err


def train(lab, out, *words):
    return ["train", "--data", lab.parent / "photos", "--out", lab.parent / out, *QUICK, *words]


def tracked(*names):
    return [w for n in names for w in ("--track", n)]


def kept(text):  # lines of `cvlab track --check` -> whether everything came back
    lines = [line for line in text.splitlines() if "read back" in line]
    assert lines
    for line in lines:
        n, total = line.split("read back: ")[1].split(" values")[0].split(" of ")
        if n != total or "extra" in line or "missing" in line:
            return False
    return True


@pytest.mark.skipif(not HERE, reason="no tracker is installed")
@pytest.mark.parametrize("names", [HERE[:1], pytest.param(HERE, marks=night)], ids=["one", "all"])
@pytest.mark.slow
def test_a_tracked_training_has_the_same_bytes(lab, names):
    for out, told in [("run-a", []), ("run-b", names)]:
        code, _, err = cvlab(lab, *train(lab, out, "train.epochs=3", *tracked(*told)))
        assert code == 0, err
    for name in names:
        assert f"{name}: " in err and " rows and " in err
    files = "train/seed-0/results.csv evaluate/seed-0/predictions.csv weights/seed-0/best.safetensors train/seed-0/train.ipynb"
    for file in files.split():
        a, b = ((lab.parent / out / file).read_bytes() for out in ("run-a", "run-b"))
        assert a.replace(b"/run-a", b"/run-b") == b, file
    code, out, err = cvlab(
        lab, "track", lab.parent / "run-b", *[w for n in names for w in ("--to", n)], "--check"
    )
    assert code == 0 and kept(out), out + err


@night
@each
def test_killed_and_resumed_it_is_told_once(lab, name):
    words = train(lab, "run", "train.epochs=40", *tracked(name))
    log, p = lab.parent / "run/train/seed-0/train.log", start(lab, *words)
    while not (log.exists() and "epoch   3 " in log.read_text()):
        assert p.poll() is None, p.communicate()[1]
        time.sleep(0.02)
    kernel = int((log.parent / ".lock").read_text())
    os.kill(kernel, signal.SIGKILL)
    os.killpg(p.pid, signal.SIGKILL)
    p.communicate()
    code, _, err = cvlab(lab, *words, "--resume")
    assert code == 0 and f"{name}: " in err, err
    code, out, err = cvlab(lab, "track", lab.parent / "run", "--to", name, "--check")
    assert code == 0 and kept(out), out + err
    events = next((lab / ".cvlab/track").glob("*/events.jsonl")).read_text().splitlines()
    steps = [
        (e["axis"], e["step"])
        for e in map(json.loads, events)
        if e["kind"] == "row" and "train_loss" in e["values"]
    ]
    assert steps == [("epoch", i) for i in range(1, 41)]


@night
@pytest.mark.skipif("mlflow" not in HERE, reason="mlflow is not installed")
def test_what_cannot_be_sent_waits(lab):
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings, usual = lab / "settings.ini", (lab / "settings.ini").read_text()
    hanging = socket.create_server(("127.0.0.1", 0))  # connects, and never answers
    broken = lab / "broken.db"
    broken.write_text("not a database " * 100)
    trouble = {
        "http://127.0.0.1:9": "no answer",
        f"http://127.0.0.1:{server.server_port}": "credentials are refused",
        "sqlite:///broken.db": "not a database",
        f"http://127.0.0.1:{hanging.getsockname()[1]}": "no answer",
    }
    code, _, err = cvlab(lab, *train(lab, "run", "train.epochs=2"))
    assert code == 0, err
    for address, says in trouble.items():
        settings.write_text(usual.replace("sqlite:///.cvlab/mlflow.db", address))
        code, out, err = cvlab(lab, "track", lab.parent / "run", "--to", "mlflow")
        assert code == 0 and says in out and "`cvlab track sync` sends it" in out, out + err
        assert "Traceback" not in out + err and len(out.splitlines()) == 1
    # the server that hangs holds no training up, and changes nothing
    code, _, err = cvlab(lab, *train(lab, "held", "train.epochs=2", *tracked("mlflow")))
    assert code == 0 and "no answer" in err and "Traceback" not in err, err
    for file in ("train/seed-0/results.csv", "evaluate/seed-0/predictions.csv"):
        a, b = ((lab.parent / out / file).read_bytes() for out in ("run", "held"))
        assert a == b, file
    hanging.close()
    settings.write_text(usual)
    code, out, err = cvlab(lab, "track", "sync")
    assert code == 0 and "mlflow: " in out and " rows and " in out, out + err
    assert cvlab(lab, "track", "sync")[1] == "nothing is waiting\n"
    code, out, err = cvlab(lab, "track", lab.parent / "run", "--to", "mlflow", "--check")
    assert kept(out), out + err
    server.shutdown()


UI = TOP / ".cvlab" / "mlflow-ui" / "bin" / "mlflow"


def serving(folder, port):
    "MLflow's server on this machine, with its files in a folder."
    words = (
        f"server --host 127.0.0.1 --port {port} --workers 1 --artifacts-destination {folder}/files"
    )
    server = subprocess.Popen(
        [UI, *words.split(), "--backend-store-uri", f"sqlite:///{folder}/server.db"],
        env=os.environ | dict(MLFLOW_DISABLE_TELEMETRY="true"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
            return server
        assert server.poll() is None, "the server ended"
        time.sleep(0.5)
    raise AssertionError("the server does not answer")


def stopped(server):
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(60)


@night
@pytest.mark.skipif(
    "mlflow" not in HERE or not UI.exists(), reason="`make mlflow-ui` installs MLflow's server"
)
def test_a_server_over_http(lab):
    "A training told to a server; one while it is away, sent later; registry and address of the model."
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = lab / "settings.ini"
    usual = settings.read_text()
    settings.write_text(usual.replace("sqlite:///.cvlab/mlflow.db", f"http://127.0.0.1:{port}"))
    server = serving(lab.parent, port)
    try:
        code, _, err = cvlab(lab, *train(lab, "run", "train.epochs=3", *tracked("mlflow")))
        assert code == 0 and f"files in http://127.0.0.1:{port}" in err, err
        code, out, err = cvlab(lab, "track", lab.parent / "run", "--to", "mlflow", "--check")
        assert code == 0 and kept(out), out + err
        stopped(server)
        code, _, err = cvlab(lab, *train(lab, "away", "train.epochs=2", *tracked("mlflow")))
        assert code == 0 and "no answer; the run is kept" in err, err
        server = serving(lab.parent, port)
        code, out, err = cvlab(lab, "track", "sync")
        assert code == 0 and " rows and " in out, out + err
        code, out, err = cvlab(lab, "track", lab.parent / "away", "--to", "mlflow", "--check")
        assert code == 0 and kept(out), out + err
        code, out, err = cvlab(lab, "registry", "add", lab.parent / "run", "--name", "shapes")
        assert code == 0 and "shapes 1: registered" in out, out + err
        words = ["registry", "promote", "shapes", "1", "--to", "production", "--reason", "first"]
        assert cvlab(lab, *words)[0] == 0
        photos = lab.parent / "photos" / "disc"
        code, out, err = cvlab(lab, "predict", "--run", "models:/shapes@production", photos)
        assert code == 0 and out.startswith("path,label,probability"), out + err
    finally:
        stopped(server)


@pytest.mark.parametrize(
    "words, says",
    [
        (["track", "PHOTOS", "--to", "mlflow"], "no training here"),
        (["track", "PHOTOS", "--to", "wanbd"], "wanbd: no such tracker; there are mlflow, wandb"),
        (["track", "PHOTOS"], "no tracker: name one with --to, or in settings.ini"),
        (["registry", "add", "PHOTOS", "--name", "a"], "no training here"),
    ],
)
@pytest.mark.skipif("mlflow" not in HERE, reason="mlflow is not installed")
def test_mistakes_end_in_one_line(lab, words, says):
    code, out, err = cvlab(lab, *[lab.parent / "photos" if w == "PHOTOS" else w for w in words])
    assert code == 1 and says in err and len(err.strip().splitlines()) == 1, out + err


@night
@pytest.mark.skipif("mlflow" not in HERE, reason="mlflow is not installed")
def test_an_experiment_that_was_deleted_comes_back(lab):
    from cvlab.trackers.mlflow import EXPERIMENT, mlflow_client

    cvlab(lab, *train(lab, "run", "train.epochs=2"))
    client = mlflow_client(f"sqlite:///{lab}/.cvlab/mlflow.db")
    client.delete_experiment(client.create_experiment(EXPERIMENT))
    code, out, err = cvlab(lab, "track", lab.parent / "run", "--to", "mlflow", "--check")
    assert code == 0 and kept(out), out + err


@night
@pytest.mark.skipif("mlflow" not in HERE, reason="mlflow is not installed")
def test_a_model_is_registered_promoted_and_listed(lab):
    cvlab(lab, *train(lab, "run", "train.epochs=2"))
    code, out, err = cvlab(lab, "registry", "add", lab.parent / "run", "--name", "shapes")
    assert code == 0 and "shapes 1: registered" in out, out + err
    words = ["registry", "promote", "shapes", "1", "--to", "production", "--reason", "the first"]
    code, out, err = cvlab(lab, *words)
    assert code == 0 and "models:/shapes@production" in out, out + err
    code, out, err = cvlab(lab, "registry", "list")
    assert "production" in out and "accuracy" in out and "no leak found" in out


@night  # test_folds.py tells a tracker about folds in seconds; here it is the command
@pytest.mark.skipif("mlflow" not in HERE, reason="mlflow is not installed")
def test_folds_are_runs_of_their_own(lab):
    settings, usual = lab / "settings.ini", (lab / "settings.ini").read_text()
    settings.write_text(usual.replace("sqlite:///.cvlab/mlflow.db", "http://127.0.0.1:9"))
    folds = ["crossval", "--data", lab.parent / "photos", "--out", lab.parent / "folds"]
    words = [*QUICK, "train.epochs=1", "crossval.folds=2", *tracked("mlflow")]
    code, out, err = cvlab(lab, *folds, *words)
    assert code == 0 and "mlflow: 0 of 3 runs told; http://127.0.0.1:9: no answer" in out, out + err
    settings.write_text(usual)
    code, out, err = cvlab(lab, "track", lab.parent / "folds", "--to", "mlflow", "--check")
    assert code == 0 and "mlflow: 3 runs in " in out and kept(out), out + err

    from cvlab.trackers.mlflow import EXPERIMENT, mlflow_client

    client = mlflow_client(f"sqlite:///{lab}/.cvlab/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    tags = sorted(
        (r.data.tags.get("cvlab.repeat"), r.data.tags.get("cvlab.fold"))
        for r in runs
        if "cvlab.fold" in r.data.tags
    )
    assert tags == [("0", "0"), ("0", "1")]
    (summary,) = (r.data.metrics for r in runs if "cvlab.fold" not in r.data.tags)
    means = [r.data.metrics["fold/accuracy"] for r in runs if "cvlab.fold" in r.data.tags]
    assert summary["default/accuracy"] == pytest.approx(sum(means) / 2)


def test_the_page_names_what_there_is():
    page = (TOP / "nbs/pages/site/trackers.md").read_text()
    makefile = (TOP / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z][a-z-]+)", page))
    assert {"mlflow-quick", "wandb-quick", "mlflow-ui", "compare-trackers"} <= targets
    assert all(re.search(rf"^{t}:", makefile, re.M) for t in targets)
    locks = set(re.findall(r"requirements/([a-z-]+)\.txt", page))
    assert locks == {*TRACKERS} and all((TOP / f"requirements/{n}.txt").exists() for n in locks)
    for words in re.findall(r"`?cvlab (track|registry \w+) ", page):
        assert cvlab(TOP, *words.split(), "--help")[0] == 0
