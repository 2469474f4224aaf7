"Parsers and parameters on drawn input: an answer or a `LabError` of one line, and nothing else."

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import TOP
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cvlab.core.boundary import read_csv, tensor_shapes
from cvlab.core.io import LabError, read_json, write_tensors
from cvlab.core.params import known_keys, parse_override, parse_yaml, plain, resolve
from cvlab.data.importers import look
from cvlab.data.samples import decode, read_source
from cvlab.tasks.infer import check_info

CORPUS = Path(__file__).parent / "corpus"
settings.register_profile(
    "cvlab",
    deadline=None,
    derandomize=True,  # the same inputs in every run
    max_examples=150,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("cvlab")
PARAMS = TOP / "params.yaml"
TEXT = st.text(max_size=60) | st.text("[]{}&*<>!|:,-? \n\t'\"#%@`0123456789.eEn~abx", max_size=60)
# values that a JSON or YAML file can hold
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def one_line(f, *args, **kw):
    "The answer, or None after a `LabError` of one short line; any other exception fails."
    try:
        return f(*args, **kw)
    except LabError as e:
        assert str(e) and "\n" not in str(e) and len(str(e)) < 1000, e


@given(TEXT)
@example("? {a: 1}\n: 2")
@example("a: &a\n  <<: *a")
@example("<<: [1, 2]")
@example("!!map [a]")
@example("- !!omap [a: 1]")
@example("1_000: 0o9")
def test_yaml(text):
    one_line(parse_yaml, text, "x.yaml")
    doc = one_line(parse_yaml, text, "x.yaml", "rt")
    plain(doc)
    one_line(parse_override, f"optim.lr={text}")
    one_line(parse_override, text)


@given(st.sampled_from(sorted(known_keys())), VALUES)
def test_a_parameter_of_any_value(key, value):
    "What is accepted is in the bounds that it has: no infinity, no negative seed, no huge count."
    text = json.dumps(value)
    if (p := one_line(resolve, PARAMS, overrides=[f"{key}={text}"])) is None:
        return
    accepted = p
    for part in key.split("."):
        accepted = getattr(accepted, part)
    for v in accepted if isinstance(accepted, list) else [accepted]:
        if isinstance(v, (int, float)):
            assert math.isfinite(v) and -1e30 < v < 1e300


@given(st.binary(max_size=200) | TEXT.map(str.encode))
@example(b"\xef\xbb\xbfpath,label\n\x00.png,a\n")
@example(b'path,label\n"a.png,b\n')
@example(b"Path,pATH,label\na,b,c\n")
def test_a_table(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("table")
    (folder / "x.csv").write_bytes(data)
    one_line(read_csv, folder / "x.csv")
    one_line(read_source, folder / "x.csv")
    for rows in (data, b"\na.png,b"):
        (folder / "samples.csv").write_bytes(b"path,label\n" + rows)
        one_line(read_source, folder)


@given(VALUES)
def test_a_model_file(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("info") / "best.json"
    path.write_text(json.dumps(value))
    one_line(check_info, path)
    good = dict(
        **dict(name="small_cnn", classes=["a", "b"], size=32, side=32, normalise="half"),
        **dict(head="linear", outputs=2, task="classification"),
    )
    for key in good:
        path.write_text(json.dumps({**good, key: value}))
        if value != good[key]:
            one_line(check_info, path)
    path.write_text(json.dumps(good))
    check_info(path)


def damaged(data: bytes, edits) -> bytes:
    "The bytes with some of them changed, and perhaps cut."
    out = bytearray(data)
    for at, value in edits:
        out[at % len(out)] = value
    return bytes(out[: edits[0][0] % len(out) + 1] if edits and edits[0][1] % 4 == 0 else out)


EDITS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@settings(max_examples=40)
@given(edits=EDITS)
def test_a_damaged_image(tmp_path_factory, form, edits):
    folder = tmp_path_factory.mktemp("image")
    image = Image.fromarray(np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3))
    image.save(folder / "good", form)
    (folder / "x.png").write_bytes(damaged((folder / "good").read_bytes(), edits))
    found = look(folder / "x.png")
    assert found["verdict"] in ("", "converted", "refused") and "\n" not in found["why"]
    pixels = one_line(decode, folder / "x.png", 16)
    assert (pixels is None) or pixels.shape == (16, 16, 3)


@given(edits=EDITS)
def test_damaged_weights(tmp_path_factory, edits):
    import torch

    folder = tmp_path_factory.mktemp("weights")
    write_tensors(folder / "good", {"a.weight": torch.ones(3, 4), "a.n": torch.tensor(1)})
    (folder / "x").write_bytes(damaged((folder / "good").read_bytes(), edits))
    one_line(tensor_shapes, folder / "x")


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda p: p.name)
def test_the_corpus(path):
    "Files that once ended in a traceback, hung or started a program."
    reader = {".yaml": _params, ".json": read_json, ".csv": _source, ".safetensors": tensor_shapes}
    if f := reader.get(path.suffix):
        with pytest.raises(LabError) as e:
            f(path)
        assert "\n" not in str(e.value)
    else:
        assert look(path)["verdict"] == "refused"


def _params(path):
    return resolve(PARAMS, overrides=[f"preset={path}"])


def _source(path):
    from cvlab.data.samples import find_samples

    return find_samples(path)
