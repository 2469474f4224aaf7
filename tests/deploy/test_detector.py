"An exported detector: the same objects from the run, from the file, and over HTTP."

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TOP, environ
from PIL import Image
from test_serve import Served

from cvlab.deploy.export import export_run
from cvlab.deploy.predictor import Predictor
from cvlab.models.create import save_model
from cvlab.tasks.detect import Detection, create_detector


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    "A folder with weights, an exported file and an image."
    top = tmp_path_factory.mktemp("found")
    torch.manual_seed(0)
    body = dict(body="small_cnn", strides=[4, 8], width=16)
    net = create_detector("one_stage", 2, **body, size=64).eval()
    for level in net.head:  # certain of something
        torch.nn.init.normal_(level.score[1].weight, std=20)
        torch.nn.init.zeros_(level.score[1].bias)
    info = dict(name="one_stage", head="linear", size=64, side=64, normalise="half", task="detect")
    info |= dict(detector=body) | Detection(["disc", "square"], 1.5, 64).state
    save_model(top / "run", net, info)
    export_run(top / "run", top / "shipped", cache=top / "cache")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)
    Image.fromarray(pixels).save(top / "image.png")
    return top


def cvlab(*words):
    done = subprocess.run(
        [sys.executable, "-c", "from cvlab.cli.main import main; main()", *map(str, words)],
        cwd=TOP,
        env=environ(TOP),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_file_finds_what_its_run_finds(found):
    of_run, of_file = (
        Predictor(found / p)(found / "image.png") for p in ("run", "shipped/model.onnx")
    )
    assert len(of_run.boxes) > 3 and of_file.label == of_run.label
    for a, b in zip(of_run.boxes, of_file.boxes):
        assert a[0] == b[0]
        np.testing.assert_allclose(a[1:], b[1:], atol=1e-3)
    rc, out, _ = cvlab("predict", "--run", found / "shipped", found / "image.png")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rc == 0 and [r["label"] for r in rows] == [b[0] for b in of_run.boxes]


def test_a_server_answers_with_boxes(found):
    server = Served(found / "shipped", "--workers", 1)
    status, answer = server.image((found / "image.png").read_bytes())
    (got,) = answer["answers"]
    want = Predictor(found / "run")(found / "image.png").boxes
    assert status == 200 and [b["label"] for b in got["boxes"]] == [b[0] for b in want]
    for a, b in zip(got["boxes"], want):
        np.testing.assert_allclose([a["score"], *a["box"]], b[1:], atol=1e-3)
        assert 0 <= a["box"][0] <= a["box"][2] <= 120 and 0 <= a["box"][1] <= a["box"][3] <= 60
    assert server.image(b"x")[0] == 415  # and lives
    assert server.stop() == 0


@pytest.mark.parametrize(
    "words",
    [
        ["space", "MODEL", "OUT"],
        ["monitor", "LOG", "--reference", "MODEL"],
        ["serve", "MODEL", "--log", "LOG"],
    ],
    ids=lambda w: w[0],
)
def test_what_takes_no_boxes_says_so_in_one_line(found, words, tmp_path):
    named = dict(MODEL=found / "shipped", OUT=tmp_path / "out", LOG=tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text(json.dumps(dict(id="a")) + "\n")
    rc, out, err = cvlab(*(named.get(w, w) for w in words))
    assert rc == 1 and len(err.strip().splitlines()) == 1, err
    assert "detector" in err and "Traceback" not in err
