"A real S3 server: models registered, lent and served from it, versions of data, and what goes wrong."

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from conftest import TOP, clone_into, environ, in_process
from test_serve import Served, png

from cvlab.core.io import LabError, file_hash, write_json
from cvlab.data.fixtures import tiny_folder
from cvlab.data.samples import find_samples, split_hash, split_samples, write_split
from cvlab.deploy.exported import read_info, sealed, tiny_model
from cvlab.runs.paths import RunPaths

pytestmark = [
    pytest.mark.skipif(find_spec("boto3") is None, reason="needs requirements/store.txt"),
    pytest.mark.slow,
]


def lab_run(folder):
    "A finished run with its evidence, and an exported file of it."
    run = RunPaths(folder / "run")
    split = split_samples(find_samples(tiny_folder(folder / "images", n=40)))
    write_split(run.split, split)
    run.weights.mkdir(parents=True)
    (run.weights / "best.safetensors").write_bytes(b"weights")
    run.history.parent.mkdir(parents=True)
    run.history.write_text("epoch,train_loss,val_loss\n1,0.5,0.4\n")
    m = dict(accuracy=0.9, accuracy_low=0.8, accuracy_high=0.99, n=6, split=split_hash(split))
    write_json(run.metrics, dict(test=m))
    write_json(run.leakage_report, dict(findings=[]))
    return run


def shipped(folder, run, gain):
    model = tiny_model(folder, gains=((gain, 0, 0), (0, gain, 0)))
    info = read_info(model.with_name("model.json"))
    info |= dict(weights={"best": file_hash(run.weights / "best.safetensors")})
    write_json(model.with_name("model.json"), sealed(info))
    return model.parent


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A clone with a running store and a run."
    from cvlab.deploy.storage import start_store, stop_store

    top = tmp_path_factory.mktemp("store")
    there = clone_into(top / "cvlab")
    for k, v in {"user.name": "Ada", "user.email": "ada@example.org"}.items():
        subprocess.run(["git", "-C", there, "config", k, v], check=True)
    start_store(there / ".cvlab/store")
    yield there
    assert stop_store(there / ".cvlab/store")


@pytest.fixture(scope="module")
def run(lab):
    return lab_run(lab.parent)


def said(lab, *words, **env):
    "Exit status and output of a command in the clone."
    code, out, err = in_process(words, lab, **env)
    assert "Traceback" not in out + err, err
    return code, (out + err).strip()


def test_from_a_run_to_an_answer(lab, run, tmp_path):
    "Register, promote, list, lend; a server that knows an address and no key answers with the model."
    one, two = (shipped(tmp_path / n, run, g) for n, g in (("one", 0.1), ("two", 0.2)))
    code, text = said(lab, "models", "register", one, "--name", "colours", "--run", run.root)
    assert code == 0 and text.startswith("colours@v0.0.1: accuracy 0.900 (95 % CI 0.800 to"), text
    code, text = said(lab, "models", "register", two, "--name", "colours")
    assert code == 1 and "no run was named, so nothing is known about it; --force" in text
    assert said(lab, "models", "register", two, "--name", "colours", "--force")[0] == 0
    words = "colours", "v0.0.1", "--to", "production", "--reason", "the measured one"
    assert said(lab, "models", "promote", *words) == (0, "model:colours#production is v0.0.1")
    code, text = said(lab, "models", "list")
    assert code == 0 and [line.split()[1] for line in text.splitlines()[1:]] == ["v0.0.2", "v0.0.1"]
    code, text = said(lab, "models", "show", "colours#production", "--lend", 1)
    lent = text.splitlines()[-1]
    assert code == 0 and lent.startswith("http://127.0.0.1:") and "the measured one" in text
    (tmp_path / "red.png").write_bytes(png())
    code, text = said(lab, "predict", "--run", "model:colours#production", tmp_path / "red.png")
    assert code == 0 and ",red," in text
    server = Served(lent, "--workers", 1)
    sha256 = read_info(one / "model.json")["files"]["model.onnx"]
    assert server.image(png())[1]["model"] == sha256[:12]
    assert server.stop() == 0
    code, text = said(lab, "predict", "--run", lent[:-1] + "0" + lent[-1:], tmp_path / "red.png")
    assert code == 1 and "add #sha256=" in text


def test_exchanged_in_the_store(lab, run, tmp_path):
    "Whoever overwrites the object changes nothing: the version is asked for, and the hash is checked."
    from cvlab.deploy.registry import address_of, find
    from cvlab.deploy.storage import client, running

    folder = shipped(tmp_path / "kept", run, 0.3)
    assert said(lab, "models", "register", folder, "--name", "kept", "--run", run.root)[0] == 0
    found, place = find("kept@latest", lab), running(lab / ".cvlab/store")
    assert found["version_id"] and f"versionId={found['version_id']}" in address_of(found)
    key = found["address"].removeprefix("s3://cvlab/")
    client(place).put_object(Bucket="cvlab", Key=key, Body=b"something else")
    assert said(lab, "models", "get", "kept@latest", "--out", tmp_path / "got")[0] == 0
    shutil.rmtree(lab / ".cvlab/models")
    client(place).delete_object(Bucket="cvlab", Key=key, VersionId=found["version_id"])
    code, text = said(lab, "models", "get", "kept@latest", "--out", tmp_path / "again")
    assert code == 1 and ("nothing is there" in text or "no such version" in text), text
    assert not (tmp_path / "again").exists()


def test_two_writers_and_a_kill(lab, run, tmp_path):
    "Processes that register at the same time get a version each; a killed one leaves no version."
    code = (
        "import sys; from pathlib import Path; from cvlab.deploy.registry import register; from cvlab.runs.paths import RunPaths\n"
        "print(register(sys.argv[1], 'both', RunPaths(Path(sys.argv[2])), root='.'))"
    )
    env = environ(lab) | {"PYTHONPATH": str(TOP)}

    def begin(gain):
        words = [sys.executable, "-c", code, shipped(tmp_path / f"g{gain}", run, gain), run.root]
        return subprocess.Popen(words, cwd=lab, env=env, stdout=subprocess.PIPE, text=True)

    writers = [begin(g) for g in (1.0, 2.0, 3.0)]
    versions = [p.communicate(timeout=120)[0].strip() for p in writers]
    assert sorted(versions) == ["v0.0.1", "v0.0.2", "v0.0.3"]
    for wait in (1.0, 2.0, 3.0):
        p = begin(10 + wait)
        time.sleep(wait)
        p.send_signal(signal.SIGKILL)
        p.wait()
    code, text = said(lab, "models", "list")
    rows = [line.split()[:2] for line in text.splitlines() if line.split()[0] == "both"]
    assert code == 0 and len(rows) >= 3
    for name, version in rows:  # what is listed is whole
        out = tmp_path / version
        assert said(lab, "models", "get", f"{name}@{version}", "--out", out)[0] == 0


def test_versions_of_data(lab, tmp_path):
    "DVC stores two versions of a file, and an older commit gets its own back."
    repo = tmp_path / "repo"
    repo.mkdir()
    env = environ(lab) | {"PYTHONPATH": str(TOP)}

    def sh(*words):
        done = subprocess.run(words, cwd=repo, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def dvc(*words):
        sh(sys.executable, "-m", "dvc", *words)

    sh("git", "init", "-q")
    sh("git", "config", "user.name", "Ada")
    sh("git", "config", "user.email", "ada@example.org")
    dvc("init", "-q")
    (repo / "params.yaml").touch()
    shutil.copytree(
        lab / ".cvlab/store", repo / ".cvlab/store", ignore=shutil.ignore_patterns("objects")
    )
    (repo / "settings.ini").write_text("[store]\naddress =\nendpoint =\n")
    (repo / ".gitignore").write_text(".cvlab/\n")
    code, text = said(repo, "store", "remote")
    assert code == 0 and ".dvc/config.local" in text
    for content in ("one", "three"):
        (repo / "data.txt").write_text(content)
        dvc("add", "-q", "data.txt")
        dvc("push", "-q")
        sh("git", "add", ".")
        sh("git", "commit", "-qm", content)
    assert "version_id" in (repo / "data.txt.dvc").read_text()
    secret = (repo / ".cvlab/store/credentials").read_text().split()[-1]
    tracked = subprocess.run(["git", "ls-files"], cwd=repo, capture_output=True, text=True).stdout
    assert all(secret not in (repo / f).read_text() for f in tracked.split())
    shutil.rmtree(repo / ".dvc/cache")
    for commit, content in (("HEAD~1", "one"), ("HEAD", "three")):
        sh("git", "checkout", "-q", commit, "--", "data.txt.dvc")
        (repo / "data.txt").unlink()
        dvc("pull", "-q")
        assert (repo / "data.txt").read_text() == content


def test_full_disk(tmp_path):
    "The store's disk is a small one: an object that does not fit is one line, and the others stay."
    from cvlab.deploy.storage import get, put, start_store, stop_store

    folder = tmp_path / "store"
    (folder / "objects").mkdir(parents=True)
    mount = f'mount -t tmpfs -o size=40m none {folder / "objects"} && exec "$@"'
    inside = "unshare", "-Urm", "sh", "-c", mount, "sh"
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no namespace of mounts here")
    place = start_store(folder, prefix=inside)
    try:
        first = put(place, b"x" * 1_000_000, "small")
        with pytest.raises(LabError, match="disk may be full|disk of the store is full") as e:
            put(place, os.urandom(80_000_000), "large")
        assert "\n" not in str(e.value)
        with pytest.raises(LabError, match="nothing is there"):
            get(place, "s3://cvlab/large")
        assert get(place, first) == b"x" * 1_000_000
    finally:
        stop_store(folder)
