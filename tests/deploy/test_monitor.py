"The monitor behind a real server: its log, a drift with a known beginning, gauges, a chat, and labels that arrive later."

import io
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from conftest import cvlab
from PIL import Image
from test_serve import Served

from cvlab.deploy.exported import tiny_model
from cvlab.deploy.monitor import read_log


def images(n, seed, light):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        colour = rng.permutation([light, light // 4]).tolist() + [20]
        pixels = np.clip(rng.normal(colour, 12, (24, 32, 3)), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        yield file.getvalue()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    "A server that has answered 60 requests, and then 40 darker ones; its log of the first is the reference."
    top = tmp_path_factory.mktemp("monitor")
    model = tiny_model(top / "model", classes=("red", "green"))
    server = Served(model, "--workers", "1", "--log", top / "log.jsonl")
    for data in images(60, 0, 200):
        assert server.image(data)[0] == 200
    shutil.copy(top / "log.jsonl", top / "reference.jsonl")
    for data in images(40, 1, 150):
        assert server.image(data)[0] == 200
    yield server, top
    server.process.terminate()
    server.process.wait(20)


def test_no_drift_is_status_0(served):
    server, top = served
    code, out, err = cvlab(
        "monitor", top / "reference.jsonl", "--reference", top / "reference.jsonl", "--window", "30"
    )
    assert code == 0, err
    assert out.startswith("no drift seen: 30 predictions against 60 of the reference")


def test_drift_is_told_by_status_gauges_notebook_and_chat(served):
    server, top = served
    got = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    chat = HTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=chat.serve_forever, daemon=True).start()
    assert b"cvlab_drift" not in server.ask("GET", "/metrics")[1]
    words = ["--reference", top / "reference.jsonl", "--window", "40"]
    hook = f"http://127.0.0.1:{chat.server_port}"
    code, out, err = cvlab("monitor", top / "log.jsonl", *words, "--webhook", hook)
    chat.shutdown()
    chat.server_close()
    assert code == 3, out + err
    assert out.startswith("DRIFT of ") and "brightness" in out.splitlines()[0]
    assert got[0]["drift"] and got[0]["text"].startswith("DRIFT of ") and got[0]["n"] == 40
    nb = json.loads((top / "log.jsonl.monitor" / "monitor.ipynb").read_text())
    shown = [o for c in nb["cells"] for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in shown) == 2
    assert not any(o["output_type"] == "error" for o in shown)
    for name in ("drift.csv", "stretches.csv", "drift.json", "inputs.png"):
        assert (top / "log.jsonl.monitor" / name).stat().st_size > 0
    assert b"\ncvlab_drift 1.0\n" in server.ask("GET", "/metrics")[1]


def test_a_chat_that_is_down_changes_nothing_but_a_line(served):
    server, top = served
    words = ["--reference", top / "reference.jsonl", "--window", "40"]
    code, out, err = cvlab("monitor", top / "log.jsonl", *words, "--webhook", "http://127.0.0.1:1")
    assert code == 3 and "cvlab: --webhook http://127.0.0.1:1: " in err, err


def test_labels_that_arrive_later_need_a_run(served):
    server, top = served
    first = read_log(top / "log.jsonl")
    (top / "labels.csv").write_text("id,label\n" + f"{first.id[0]},red\n")
    words = ["--reference", top / "reference.jsonl", "--labels", top / "labels.csv"]
    code, out, err = cvlab("monitor", top / "log.jsonl", *words)
    assert (code, err) == (1, err) and "labels need the names of the classes" in err
    # what `write_reference` writes of a run
    rows = [json.loads(line) for line in (top / "reference.jsonl").read_text().splitlines()]
    known = [r | dict(label=("red", "green")[int(np.argmax(r["outputs"]))]) for r in rows]
    lines = [dict(classes=["red", "green"]), *known]
    (top / "known.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    words[1] = top / "known.jsonl"
    code, out, err = cvlab("monitor", top / "log.jsonl", *words, "--out", top / "labelled")
    assert code == 3, err
    assert "accuracy of 1 labelled predictions: " in out
    assert b'cvlab_labelled_accuracy{bound="low"}' in server.ask("GET", "/metrics")[1]
