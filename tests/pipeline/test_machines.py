"""Two machines: network namespaces of this one with a cable between them, over which launcher, ranks and Ray have to talk.

They see the same files, as machines of a cluster see a shared file system. Needs the right to create namespaces."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TOP, environ
from test_distributed import FILES, results, train_words, wait_for
from test_tune import begun, by_executor, finished, images, worker, worker_of  # noqa: F401

from cvlab.data.fixtures import tiny_folder
from cvlab.studies.tune import ended, study_hash

pytestmark = pytest.mark.slow
ADDRESSES = {"cvlab-a": "10.77.0.1", "cvlab-b": "10.77.0.2"}


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


def inside(machine):
    "The processes of a machine."
    return [int(n) for n in ip("netns", "pids", machine).stdout.split()]


def switched_off(machine):
    "All its processes are gone at once."
    for pid in inside(machine):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not inside(machine), 30)


@pytest.fixture
def machines():
    "Names of two machines that reach each other, and nothing else."
    a, b = ADDRESSES
    if not shutil.which("ip") or ip("netns", "add", a).returncode:
        pytest.skip("network namespaces are not permitted here")
    ip("netns", "add", b)
    made = [ip("link", "add", a, "netns", a, "type", "veth", "peer", "name", b, "netns", b)]
    for name, address in ADDRESSES.items():
        made += [ip("-n", name, "addr", "add", f"{address}/24", "dev", name)]
        made += [ip("-n", name, "link", "set", link, "up") for link in ("lo", name)]
    try:
        assert not any(m.returncode for m in made), [m.stderr for m in made]
        yield a, b
    finally:
        for name in (a, b):
            switched_off(name)
            ip("netns", "del", name)


def on(machine, words, **env):
    "Start a program on a machine."
    return subprocess.Popen(
        ["ip", "netns", "exec", machine, *map(str, words)],
        cwd=TOP,
        env=environ(TOP) | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def torchrun(machine, words):
    "Two nodes with a process each, as the page on distributed training starts them; the first one leads."
    first, own = ADDRESSES["cvlab-a"], ADDRESSES[machine]
    nodes = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", own]
    meet = ["--rdzv-backend", "c10d", "--rdzv-id", "run", "--rdzv-endpoint", f"{first}:29500"]
    lead = ["--rdzv-conf", f"is_host={int(own == first)}"]
    command = [sys.executable, "-m", "torch.distributed.run", *nodes, *meet, *lead, "-m", "cvlab"]
    return on(machine, [*command, *words], GLOO_SOCKET_IFNAME=machine)


def test_a_training_over_two_machines(machines, tmp_path):
    "The bytes of two processes on one; a rank that is killed is started again from the last epoch."
    tiny_folder(tmp_path / "data", 48)
    how = "train.processes=2", "train.epochs=4"
    alone = subprocess.run(
        [sys.executable, "-m", "cvlab", *map(str, train_words(tmp_path, "whole", *how))],
        cwd=TOP,
        env=environ(TOP),
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stdout + alone.stderr
    for out, killed in (("two", False), ("killed", True)):
        both = [torchrun(m, train_words(tmp_path, out, *how)) for m in machines]
        if killed:
            wait_for((tmp_path / out / FILES[0]).with_name("last.safetensors").exists)
            ranks = [p for p in inside(machines[1]) if "distributed.run" not in words_of(p)]
            for pid in ranks:
                os.kill(pid, signal.SIGKILL)
            assert ranks
        said = [p.communicate(timeout=900)[0] for p in both]
        assert [p.returncode for p in both] == [0, 0], said
        assert results(tmp_path, out) == results(tmp_path, "whole")


def words_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def cluster(machine, env, cores=1):
    "A machine joins Ray's cluster, the first one as its head."
    own, first = ADDRESSES[machine], ADDRESSES["cvlab-a"]
    role = ["--head", "--port", "6379"] if own == first else ["--address", f"{first}:6379"]
    quiet = [
        "--disable-usage-stats",
        "--num-cpus",
        str(cores),
        "--object-store-memory",
        str(80 << 20),
    ]
    quiet += ["--include-dashboard=false"] if own == first else []
    ray = Path(sys.executable).with_name("ray")
    process = on(machine, [ray, "start", *role, "--node-ip-address", own, *quiet], **env)
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said


def test_a_study_over_two_machines(machines, images, tmp_path):  # noqa: F811
    "One machine is switched off, later the head: no trial is lost or doubled, and the bytes are those of one process."
    pytest.importorskip("ray")
    a, b = machines
    how = ["tune.method=random", "tune.trials=6", "train.epochs=40", "tune.workers=2"]
    alone = begun(tmp_path / "alone", images, *how)
    finished(worker(tmp_path / "alone"))
    study = begun(tmp_path / "shared", images, *how, "tune.executor=ray")
    env = dict(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0123456789abcdef" * 4, PYTHONPATH=str(TOP))
    head = dict(RAY_ADDRESS=f"{ADDRESSES[a]}:6379", **env)
    command = [sys.executable, "-c", by_executor("ray"), tmp_path / "shared"]
    cluster(a, env)
    cluster(b, env)
    driver = on(a, command, **head)
    workers = [worker_of(study.folder, n, driver) for n in (0, 1)]
    assert [pid in inside(b) for pid in workers].count(True) == 1  # one trial on each machine
    switched_off(b)
    wait_for(lambda: len(ended(study)) >= 3)
    switched_off(a)
    driver.communicate(timeout=60)
    assert len(ended(study)) < 6
    time.sleep(1)
    cluster(a, env)
    again = on(a, command, **head)
    said = again.communicate(timeout=600)[0]
    assert again.returncode == 0, said
    assert [t.number for t in ended(study)] == [*range(6)]
    assert study_hash(study) == study_hash(alone)
