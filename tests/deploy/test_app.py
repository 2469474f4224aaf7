"The page as somebody opens it: a browser of the size of a phone, no request to the outside; and as a Space in a fresh environment."

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from conftest import TOP
from PIL import Image

import cvlab.deploy.space as space
from cvlab.data.fixtures import tiny_folder
from cvlab.data.samples import find_samples, split_samples
from cvlab.models.create import create_model, save_model

SURE = re.compile("with a probability of|of about this probability")
PYTHON = TOP / ".cvlab" / "space" / "bin" / "python"
CARD = "# Model card\n\nTwo shapes. ![figure](x.png)\n\n| | |\n|---|---|\n| classes | 2 |\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A Space of a small network on two shapes, with examples and training images."
    from cvlab.deploy.export import export_run

    top = tmp_path_factory.mktemp("app")
    images = tiny_folder(top / "tiny", n=80)
    split = split_samples(find_samples(images), 0.2, 0.3, 0)
    torch.manual_seed(0)
    info = dict(name="small_cnn", classes=["disc", "square"], size=32, side=32, normalise="half")
    weights = top / "runs" / "weights" / "default" / "seed-0"
    save_model(weights, create_model("small_cnn", 2), info | dict(head="linear"))
    card = top / "runs" / "cards" / "default" / "seed-0" / "MODEL_CARD.md"
    card.parent.mkdir(parents=True)
    card.write_text(CARD)
    export_run(weights, top / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "known_images", lambda *a: space.Known(split, images))
        out, title = top / "space", "Discs & <squares>"
        space.write_space(top / "model" / "model.onnx", out, weights, True, title)
    return top / "space"


def started(python, folder, cwd, **env):
    "The page in a process of its own, which knows nothing of the repository; the process and its port."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    known = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GRADIO", "CVLAB"))}
    log = open(Path(cwd) / "page.log", "w")
    page = subprocess.Popen(
        [python, folder / "app.py", "--host", "127.0.0.1", "--port", str(port)],
        cwd=cwd,
        env=known | env,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    for _ in range(600):
        try:
            urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return page, port
        except OSError:
            assert page.poll() is None, (Path(cwd) / "page.log").read_text()
            time.sleep(0.1)
    page.kill()
    raise AssertionError("the page did not open within a minute")


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    if not PYTHON.exists():
        pytest.skip("gradio is missing: `make app` installs it into .cvlab/space")
    process, port = started(PYTHON, folder, tmp_path_factory.mktemp("elsewhere"))
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


@pytest.fixture
def tab(page, chromium):
    "The page on a phone; every error in its console and every request to somebody else is a failure."
    context = chromium.new_context(viewport=dict(width=390, height=844))
    tab, wrong = context.new_page(), []
    tab.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: wrong.append(str(e)))
    ours = (page, page.replace("http", "ws"), "data:", "blob:")
    tab.on("request", lambda r: None if r.url.startswith(ours) else wrong.append(r.url))
    tab.goto(page)
    tab.get_by_role("heading", name="Discs & <squares>").wait_for(timeout=30_000)
    yield tab
    context.close()
    assert not wrong, wrong


def shot(tab, name):
    "An image for a person who wants to see it: CVLAB_SHOTS=folder."
    if to := os.environ.get("CVLAB_SHOTS"):
        tab.screenshot(path=f"{to}/app-{name}.png", full_page=True)


def upload(tab, data, name="a.png", kind="image/png"):
    file = dict(name=name, mimeType=kind, buffer=data)
    tab.locator("input[type=file]").first.set_input_files(file)


def png(colour="white", size=(60, 40)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def test_an_image_gets_its_answer_on_a_phone(tab):
    shot(tab, "phone-empty")
    upload(tab, png())
    tab.get_by_text(SURE).wait_for(timeout=20_000)
    shown = tab.inner_text("body")
    assert "disc" in shown and "square" in shown and "%" in shown
    tab.locator("img[src*='/file=']").nth(3).wait_for(timeout=20_000)
    names = [
        tab.get_by_text(t).first.is_visible() for t in ("Where the evidence is", "Most similar")
    ]
    assert names == [True, True]
    assert tab.locator(".grid-wrap img, .gallery-item img").count() >= 6
    assert tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    shot(tab, "phone")


def test_occlusion_is_shown_instead_of_the_map(tab):
    "Another picture takes the place of the map, for an image of which one part shows more than another."
    heat = "img[src*='/file=']"
    file, image = io.BytesIO(), Image.new("RGB", (60, 40), "black")
    image.paste("white", (5, 5, 25, 25))
    image.save(file, "PNG")
    upload(tab, file.getvalue())
    tab.get_by_text(SURE).wait_for(timeout=20_000)
    tab.locator(heat).nth(3).wait_for(timeout=20_000)
    before = tab.locator(heat).evaluate_all("all => all.map(i => i.src)")
    shot(tab, "phone-map")
    tab.get_by_label("occlusion").check()
    changed = (
        f"before => [...document.querySelectorAll({heat!r})].some(i => !before.includes(i.src))"
    )
    tab.wait_for_function(changed, arg=before, timeout=20_000)
    shot(tab, "phone-occlusion")


def test_an_example_is_a_click(tab):
    tab.locator(".gallery-item, .examples img, [class*=gallery] button").first.click()
    tab.get_by_text(SURE).wait_for(timeout=20_000)


def test_card_and_calibration_are_there(tab):
    for name in ("Model card", "Calibration"):
        tab.get_by_role("button", name=name).click()
    tab.get_by_text("expected calibration error").wait_for()
    tab.get_by_text("Two shapes.").wait_for()
    shot(tab, "phone-card")
    assert tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


@pytest.mark.parametrize(
    "data, says",
    [
        (b"<svg onload=alert(1)>", "no image of a known format"),
        (png(size=(9000, 6000)), "at most 50,000,000 are decoded"),
        (png()[:40], "cannot be"),
    ],
)
def test_a_file_that_is_no_image_is_one_sentence(tab, data, says):
    upload(tab, data)
    tab.get_by_text("This file cannot be used:").wait_for(timeout=20_000)
    assert says in tab.inner_text("body")


def test_controls_have_names(tab):
    "Everything that can be pressed says what it is to whom cannot see it."
    tab.locator("button.gallery-item[aria-label]").first.wait_for(
        timeout=20_000
    )  # named by a script
    mute = tab.evaluate("""[...document.querySelectorAll("button, input:not([type=hidden])")]
      .filter(e => e.offsetParent && !(e.innerText || e.getAttribute("aria-label") || e.title || e.labels?.length
        || e.querySelector("img[alt]")?.alt)).map(e => e.outerHTML.slice(0, 120))""")
    assert not mute, mute
    assert tab.evaluate("document.documentElement.lang")


def test_only_this_machine_can_ask(page):
    port = int(page.rpartition(":")[2])
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.2", port)) != 0  # bound to one address, not to all


def test_it_is_shown_on_a_wide_screen(page, chromium):
    context = chromium.new_context(viewport=dict(width=1280, height=900))
    tab = context.new_page()
    tab.goto(page)
    upload(tab, png("gray"))
    tab.get_by_text(SURE).wait_for(timeout=30_000)
    tab.wait_for_timeout(1000)
    shot(tab, "wide")
    context.close()


ASK = """
import sys
from gradio_client import Client, handle_file
print(Client(sys.argv[1], verbose=False).predict(handle_file(sys.argv[2]), api_name="/predict")[0]["label"])
"""


@pytest.mark.slow
def test_a_space_runs_in_a_fresh_environment(folder, tmp_path):
    "Installed as Hugging Face does it, from its own requirements; started from another folder; asked by its own client."
    there = shutil.copytree(folder, tmp_path / "space")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    sdk = f"gradio=={space.page_versions()['gradio']}"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-cache-dir"]
    subprocess.run([*pip, "-r", there / "requirements.txt", sdk], check=True)
    page, port = started(python, there, tmp_path)
    try:
        (tmp_path / "a.png").write_bytes(png())
        ask = [python, "-c", ASK, f"http://127.0.0.1:{port}", tmp_path / "a.png"]
        done = subprocess.run(ask, capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout.strip() in ("disc", "square"), done.stdout + done.stderr
    finally:
        page.terminate()
        page.wait(20)
