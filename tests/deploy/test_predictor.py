"The small installation: a prediction where nothing of the lab can be imported."

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import TOP, environ

from cvlab.core.extras import LAB, missing
from cvlab.data.fixtures import tiny_folder
from cvlab.models.create import create_model, save_model

BLOCKED = (
    "fastai fastcore papermill nbformat dvc matplotlib seaborn scipy sklearn statsmodels captum optuna cmaes ruamel typer "
    "psutil nbdev IPython nbclient nbconvert"
).split()
ALONE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
PREDICT = """
import io, json
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from cvlab.core.io import LabError
from cvlab.deploy.predictor import Predictor, classify
from cvlab.models.create import create_model, save_model

top = Path(sys.argv[1])
torch.manual_seed(0)
info = dict(name="small_cnn", classes=["disc", "square"], size=32, side=36, normalise="half", head="linear")
for name in ("one", "two"): save_model(top/name, create_model("small_cnn", 2), info)
path = next((top/"images").rglob("*.png"))
data = path.read_bytes()
predictor = Predictor(top/"one")
answer = predictor(data)
pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
assert answer == predictor(path) == predictor(Image.open(path)) == predictor(pixels)
assert [p.label for p in predictor.batch([data, pixels])] == [answer.label]*2
both = Predictor([top/"one", top/"two"], tta="flip")(data)
assert classify(top/"one", [path]).label.tolist() == [answer.label]
try: predictor(data[:40])
except LabError as e: error = str(e)
print(json.dumps([answer.label, answer.probability, answer.probabilities, both.probabilities, error, answer._repr_html_()]))
"""


def alone(code, *args):
    "Run code in a process of its own that cannot import the lab."
    return subprocess.run(
        [sys.executable, "-c", ALONE + code, *map(str, args)],
        cwd=TOP,
        env=environ(TOP),
        capture_output=True,
        text=True,
    )


def test_predicts_from_bytes_without_the_lab(tmp_path):
    tiny_folder(tmp_path / "images")
    done = alone(PREDICT, tmp_path)
    assert done.returncode == 0, done.stderr
    label, probability, by_class, both, error, html = json.loads(done.stdout)
    assert by_class[label] == probability == max(by_class.values()) and set(by_class) == {
        "disc",
        "square",
    }
    assert list(by_class) == sorted(by_class, key=by_class.get, reverse=True)
    assert sum(by_class.values()) == pytest.approx(1) == sum(both.values()) and both != by_class
    assert error.startswith("image: ") and "\n" not in error and html.startswith("<table>")
    assert not done.stderr


@pytest.mark.parametrize(
    "module, lacks",
    [
        ("cvlab.training.learner", "fastai"),
        ("cvlab.training.recipe", "fastai"),
        ("cvlab.runs.run", "ruamel"),
        ("cvlab.evaluation.metrics", "scipy"),
        ("cvlab.cli.main", "typer"),
    ],
)
def test_a_module_of_the_lab_says_what_to_install(module, lacks):
    done = alone(f"import {module}")
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"ModuleNotFoundError: {re.escape(module)}: {lacks} is not installed; "
        r"it is part of the lab: pip install cvlab\[lab\]",
        last,
    ), done.stderr


def test_the_command_says_what_to_install_in_one_line():
    done = alone("sys.argv = ['cvlab', 'train']\nfrom cvlab.cli.start import main\nmain()")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "cvlab: typer is not installed; it is part of the lab: pip install cvlab[lab]\n"
    )


def names_in(lock):
    "Distributions that a lock pins."
    return set(re.findall(r"^([a-z0-9-]+)==", (TOP / "requirements" / lock).read_text(), re.M))


def pins_in(lock):
    return set(
        re.findall(r"^([a-z0-9-]+==[^\s;]+)", (TOP / "requirements" / lock).read_text(), re.M)
    )


def test_every_import_belongs_to_an_installation():
    "What the library imports is in the lock for predictions, in the lab's list, or in an extra that says so itself."
    imported = set()
    for path in (TOP / "cvlab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {a.name.partition(".")[0] for a in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    # compared by name without case and dots, as package indexes do
    dists = {
        name: {re.sub(r"[-_.]+", "-", d).lower() for d in of}
        for name, of in importlib.metadata.packages_distributions().items()
    }
    small, lab = names_in("predict.txt"), names_in("lab.txt")
    others = {"albumentations", "pyarrow", "lightning", "pillow_heif", "av"}
    others |= {"onnx", "onnxruntime"}  # extra export
    others |= {"torch_pruning"}  # extra prune
    others |= {"fastapi", "fastapi_offline", "prometheus_client", "starlette", "uvicorn"}  # serve
    others |= {"mlflow", "wandb", "tensorboard", "dvclive", "comet_ml"}  # trackers
    others |= {"ray", "submitit"}  # executors of a study
    others |= {"boto3", "botocore"}  # extra store
    others |= {"supervision", "trackers"}  # extra tracks
    others |= {"gradio"}  # of `cvlab app`, which has an environment of its own
    unclear = {
        m
        for m in imported - set(sys.stdlib_module_names) - {"cvlab"} - others - LAB
        if not dists.get(m, set()) & small
    }
    assert not unclear
    assert not {m for m in LAB if not dists.get(m, set()) & (lab - small)}, (
        "the lab alone brings it"
    )
    assert all(missing(ModuleNotFoundError("", name=b)) for b in BLOCKED)


def test_the_small_installation_is_part_of_the_other():
    assert pins_in("predict.txt") < pins_in("lab.txt")
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]

    def plain(requirement):
        return re.match(r"[a-zA-Z0-9-]+", requirement.replace(".", "-"))[0].lower()

    small = {plain(r) for r in project["dependencies"]}
    lab = {plain(r) for r in project["optional-dependencies"]["lab"]}
    assert small <= names_in("predict.txt") and not small & lab
    assert lab - names_in("lab.txt") <= {"setuptools", "wheel"}  # left out where pip brings them


# slow to import: each takes from a tenth of a second to several seconds
SLOW = (
    "fastai timm torchvision pandas pyarrow matplotlib seaborn scipy sklearn statsmodels captum IPython "
    "torch._dynamo sympy"
).split()
WATCHED = f"""
import sys
from cvlab.cli.start import main
try: main()
finally: print([m for m in {SLOW} if m in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command, net, needs",
    [
        (["predict"], "small_cnn", []),
        (["interpret", "--out", "maps.png"], "small_cnn", ["matplotlib", "captum", "IPython"]),
        # timm imports torchvision, which imports torch's compiler
        (["predict"], "resnet10t", ["timm", "torchvision", "torch._dynamo", "sympy"]),
    ],
)
def test_one_image_imports_only_what_its_answer_needs(tmp_path, command, net, needs):
    info = dict(name=net, classes=["a", "b"], size=32, side=32, normalise="half", head="linear")
    save_model(tmp_path / "run", create_model(net, 2, size=32), info)
    image = next(tiny_folder(tmp_path / "images").rglob("*.png"))
    words = [*command, "--run", "run", str(image)]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words],
        cwd=tmp_path,
        env=environ(TOP),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stderr.splitlines()[-1]) == needs
