"The container: its file is checked, and at night it is built without a registry and run read-only."

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import TOP, sh
from test_serve import png

from cvlab.core.params import plain, read_yaml
from cvlab.deploy.exported import tiny_model
from cvlab.deploy.serve import Options

DOCKERFILE = TOP / "docker" / "serve.Dockerfile"


def test_dockerfile_pins_and_drops():
    text = DOCKERFILE.read_text()
    assert "--require-hashes" in text and "--only-binary :all:" in text
    assert text.rindex("USER 10001:10001") > text.rindex("FROM ")
    assert "HEALTHCHECK" in text and "ADD " not in text and ":latest" not in text
    ignored = (TOP / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*", "what is not named does not reach the builder"


def test_compose_serves_read_only_and_only_to_this_machine():
    compose = plain(read_yaml(TOP / "docker" / "compose.yaml"))
    serve = compose["services"]["serve"]
    assert serve["read_only"] and serve["cap_drop"] == ["ALL"]
    assert serve["build"]["dockerfile"] == "docker/serve.Dockerfile"
    for service in compose["services"].values():
        assert all(p.startswith("127.0.0.1:") for p in service["ports"])
        assert ":latest" not in service["image"]
    assert "?" in compose["services"]["store"]["environment"]["AWS_SECRET_ACCESS_KEY"], (
        "no default secret"
    )


def test_kubernetes_manifest_fits_the_image():
    import yaml

    docs = {
        d["kind"]: d for d in yaml.safe_load_all((TOP / "docker/kubernetes/serve.yaml").read_text())
    }
    pod = docs["Deployment"]["spec"]["template"]
    box = pod["spec"]["containers"][0]
    assert pod["spec"]["securityContext"]["runAsUser"] == 10001
    assert box["securityContext"]["readOnlyRootFilesystem"]
    assert [v["mountPath"] for v in box["volumeMounts"]] == ["/model", "/tmp"]
    assert docs["Deployment"]["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert docs["Service"]["spec"]["selector"] == pod["metadata"]["labels"]
    assert (
        docs["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
        == docs["Deployment"]["metadata"]["name"]
    )
    assert {box[p]["httpGet"]["path"] for p in ("readinessProbe", "livenessProbe")} == {
        "/readyz",
        "/healthz",
    }


def test_kserve_runs_the_same_image_with_options_that_exist():
    import yaml

    ours = yaml.safe_load((TOP / "docker/kubernetes/kserve.yaml").read_text())
    docs = yaml.safe_load_all((TOP / "docker/kubernetes/serve.yaml").read_text())
    plainly = next(d for d in docs if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    box, known = ours["spec"]["predictor"]["containers"][0], plainly["containers"][0]
    assert ours["apiVersion"] == "serving.kserve.io/v1beta1" and box["name"] == "kserve-container"
    assert box["image"] == known["image"]
    assert box["securityContext"]["readOnlyRootFilesystem"]
    assert box["securityContext"]["runAsUser"] == plainly["securityContext"]["runAsUser"]
    options = {f"CVLAB_{f.name.upper()}" for f in fields(Options)} | {"CVLAB_MODEL", "STORAGE_URI"}
    assert {e["name"] for e in box["env"]} <= options
    for probe in ("readinessProbe", "livenessProbe"):
        asked, there = box[probe]["httpGet"], known[probe]["httpGet"]
        assert (asked["path"], asked["port"]) == (there["path"], known["ports"][0]["containerPort"])


def test_triton_takes_the_exported_file(tmp_path):
    "Batches of any size in all inputs and outputs, which is what its batcher needs."
    text = (TOP / "docker/triton/cvlab/config.pbtxt").read_text()
    config = dict(re.findall(r"^(\w+): (.+)$", text, re.M))
    assert config["platform"] == '"onnxruntime_onnx"' and int(config["max_batch_size"]) > 0
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra serve is not installed")
    session = onnxruntime.InferenceSession(tiny_model(tmp_path / "model"))
    for end in [*session.get_inputs(), *session.get_outputs()]:
        assert isinstance(end.shape[0], str), f"{end.name} has a fixed batch size"


NO_DEV = "the extra dev is not installed"


def test_hadolint_finds_nothing(tmp_path):
    if not (hadolint := shutil.which("hadolint")):
        pytest.skip(NO_DEV)
    assert sh(TOP, hadolint, DOCKERFILE).stdout == ""
    (tmp_path / "Dockerfile").write_text("FROM python\n")
    found = subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, text=True)
    assert "DL3006" in found.stdout  # it looks


def test_manifests_follow_the_schema_of_kubernetes():
    "KServe's own kind is no part of it; its pod is checked as one."
    import yaml

    schema = pytest.importorskip("kubernetes_validate", reason=NO_DEV)

    def check(doc):
        schema.validate(doc, schema.latest_version(), strict=True)

    docs = list(yaml.safe_load_all((TOP / "docker/kubernetes/serve.yaml").read_text()))
    for doc in docs:
        check(doc)
    predictor = yaml.safe_load((TOP / "docker/kubernetes/kserve.yaml").read_text())["spec"][
        "predictor"
    ]
    pod = {k: predictor[k] for k in ("containers", "volumes")}
    check(dict(apiVersion="v1", kind="Pod", metadata={"name": "x"}, spec=pod))
    docs[0]["spec"]["template"]["spec"]["containers"][0]["imagePullpolicy"] = "Always"
    with pytest.raises(schema.ValidationError):
        check(docs[0])


def test_compose_file_follows_its_schema():
    pytest.importorskip("check_jsonschema", reason=NO_DEV)
    schema = "--builtin-schema", "vendor.compose-spec"
    done = sh(TOP, sys.executable, "-m", "check_jsonschema", *schema, "docker/compose.yaml")
    assert "ok" in done.stdout


def podman(store, *words):
    "podman as root without systemd; it changes mounts, in a namespace of its own."
    conf = store / "containers.conf"
    conf.write_text("[containers]\ndefault_ulimits = []\n")
    own = f"podman --root {store}/s --runroot {store}/r --storage-driver vfs"
    script = f'umount /sys/fs/cgroup/unified 2>/dev/null; exec {own} "$@"'
    line = ["unshare", "-m", "bash", "-c", script, "podman", *map(str, words)]
    env = os.environ | {"CONTAINERS_CONF": str(conf)}
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"podman {words[0]}: {done.stderr[-2000:]}"
    return done


@pytest.fixture
def short():
    "A folder with a short name: podman's runroot may have 50 characters."
    with tempfile.TemporaryDirectory(prefix="cv", dir="/tmp") as d:
        yield Path(d)


@pytest.mark.slow
def test_image_is_built_from_hashes_and_runs_read_only(short):
    "Base from Debian packages, packages from a folder, no network in between."
    if os.geteuid() or not (shutil.which("podman") and shutil.which("mmdebstrap")):
        pytest.skip("needs root: apt install podman mmdebstrap")
    base, wheels = short / "base.tar", short / "wheels"
    sh(
        short,
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        "--include=python3,python3-venv",
        "bookworm",
        base,
    )
    lock = TOP / "requirements" / "serve.txt"
    how = ["--require-hashes", "--only-binary", ":all:", "--python-version", "3.11", "--no-deps"]
    sh(short, "pip", "download", "-q", "-d", wheels, "-r", lock, *how)
    (short / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    podman(short, "import", "-q", base, "base")
    mounts = ["-v", f"{wheels}:/wheels:ro", "-v", f"{short}/pip.conf:/etc/pip.conf:ro"]
    build = ["build", "--isolation=chroot", "--format", "docker", "--network=host", *mounts]
    podman(short, *build, "--build-arg", "BASE=base", "-f", DOCKERFILE, "-t", "cvlab-serve", TOP)
    size = json.loads(podman(short, "image", "inspect", "cvlab-serve").stdout)[0]["Size"]
    print(f"{size / 1e6:.0f} MB")
    assert size < 600e6
    tiny_model(short / "model")
    for p in (short, short / "model"):
        p.chmod(0o755)
    bare = [
        "--cgroups=disabled",
        "--network=host",
        "--ulimit",
        "host",
        "--no-healthcheck",
    ]  # a build machine's limits
    given = [
        "-e",
        "CVLAB_PORT=18765",
        "-e",
        "CVLAB_HOST=127.0.0.1",
        "-v",
        f"{short}/model:/model:ro",
    ]
    podman(
        short,
        "run",
        "-d",
        "--name",
        "cv",
        "--read-only",
        "--cap-drop",
        "all",
        *bare,
        *given,
        "cvlab-serve",
    )
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen("http://127.0.0.1:18765/readyz")
                break
            except OSError:
                time.sleep(0.5)
        ask = urllib.request.Request(
            "http://127.0.0.1:18765/predict", png(), {"content-type": "image/png"}
        )
        assert json.load(urllib.request.urlopen(ask))["answers"][0]["label"] == "red"
        assert podman(short, "exec", "cv", "id", "-u").stdout == "10001\n"
        with pytest.raises(AssertionError, match="Read-only file system"):
            podman(short, "exec", "cv", "touch", "/opt/cvlab/x")
    finally:
        podman(short, "stop", "-t", "20", "cv")
    log = podman(short, "logs", "cv").stderr
    assert json.loads(log.splitlines()[-1])["event"] == "stop"
