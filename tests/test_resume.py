"A training that is killed with SIGKILL at any moment and taken up again ends in the same bytes."
import json, subprocess, sys

from conftest import TOP, environ

# One process imports everything once; each attempt is a fork of it, so that twenty kills take seconds and not minutes.
SERVER = r"""
import hashlib, json, os, random, signal, sys, time
from pathlib import Path
from unittest.mock import patch
import numpy as np, pandas as pd, torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from fastai.callback.core import Callback
from cvlab.augment import augmenter
from cvlab.callbacks import Checkpoint, EarlyStop, Ema
from cvlab.data import find_samples, split_samples
from cvlab.fixtures import tiny_folder
from cvlab.loaders import Batches, part_of, picture_cache
from cvlab.models import create_model
from cvlab.repro import seed_everything
from cvlab.trainer import create_learner, train
from cvlab.runs import Log, write_table
import cvlab.callbacks

root = Path(sys.argv[1])
split = split_samples(find_samples(tiny_folder(root/"data", n=120)))
images = picture_cache(root/"data", split, 32, root/"cache")

def die(): os.kill(os.getpid(), signal.SIGKILL)

class Die(Callback):
    "Die in the third epoch, in the second batch of one of its halves."
    order = 50
    def __init__(self, training): self.training_half = training
    def after_pred(self):
        if self.epoch == 2 and self.iter == 1 and self.training == self.training_half: die()

def attempt(folder, at):
    "Train to the end, or die on the way; `at` names a moment."
    folder.mkdir(exist_ok=True)
    seed_everything(0)
    (ti, ty, _), (vi, vy, _) = (part_of(split, images, p) for p in ("train", "val"))
    cbs = [Checkpoint(folder/"last.safetensors", {"lr": "0.01"}), Ema(.9), EarlyStop(6)]
    if at in ("train", "validation"): cbs.append(Die(at == "train"))
    learn = create_learner(Batches(ti, ty, 8, train=True, hflip=.5, augment=augmenter(rotate=10., hue=.1)), Batches(vi, vy, 8),
                           create_model("small_cnn", 2, dropout=.2), precision="bf16", clip=1., accumulate=2,
                           log=Log(folder/"train.log"), cbs=cbs)
    real, n = os.replace, [0]
    def replace(a, b):
        n[0] += 1
        if n[0] == 2 and at == "before the checkpoint is in place":
            Path(a).write_bytes(Path(a).read_bytes()[:1000]); die()
        real(a, b)
        if n[0] == 2 and at == "after the checkpoint is in place": die()
    with patch("os.replace", replace):
        done = learn.checkpoint.resume()
        folder.with_suffix(".resumed").write_text(str(done))
        history = train(learn, 6, 1e-2, "plateau", every=1)
    write_table(folder/"results.csv", history)
    save_file({k: v.contiguous().clone() for k, v in learn.checkpoint.tensors().items()}, folder/"final.safetensors")
    rng = [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()[1], [g["lr"] for g in learn.opt.opt.param_groups]]
    (folder/"random.json").write_text(hashlib.sha256(json.dumps(rng).encode()).hexdigest())
    learn.checkpoint.done()

def forked(folder, at=None, after=None):
    "Exit status of an attempt in a process of its own, killed after some seconds."
    if not (pid := os.fork()):
        sys.stdout = open(os.devnull, "w")
        try: attempt(folder, at); os._exit(0)
        except BaseException as e: print(repr(e), file=sys.stderr); os._exit(1)
    if after is not None: time.sleep(after); os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def result(folder): # safetensors leaves a .tmp file of its own behind when it is killed; git and DVC ignore those
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if not p.name.startswith(".tmp")}

began = time.time(); straight = forked(root/"straight"); seconds = time.time() - began
said = dict(straight=straight, want=result(root/"straight"), seconds=seconds, killed=[])
moments = ["train", "validation", "before the checkpoint is in place", "after the checkpoint is in place"]
rng = random.Random(0)
for i, moment in enumerate(moments + [None]*20):
    folder = root/f"killed-{i}"
    delay = None if moment else seconds*(i - len(moments) + rng.random())/20
    status = forked(folder, moment, delay)
    again = forked(folder)
    said["killed"].append(dict(moment=moment or f"{delay:.2f} s", status=status, again=again, got=result(folder),
                               resumed=int(folder.with_suffix(".resumed").read_text())))
print(json.dumps(said))
"""


def test_killed_at_any_moment_it_ends_in_the_same_bytes(tmp_path):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SERVER, str(tmp_path)], cwd=TOP, env=environ(TOP),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["straight"] == 0 and "final.safetensors" in said["want"], done.stderr
    for k in said["killed"]:
        print(f"{k['moment']:36} killed: {k['status'] == -9}   epochs not trained again: {k['resumed']}   "
              f"same bytes: {k['got'] == said['want']}")
    assert len(said["killed"]) == 24
    assert all(k["again"] == 0 and k["got"] == said["want"] for k in said["killed"]), done.stderr
    assert sum(k["status"] == -9 for k in said["killed"]) >= 20, "the kills came in time"
    assert len({k["resumed"] for k in said["killed"]}) >= 4, "they came in many epochs, and went on from there"
