"A camera is read until Ctrl-C, and what was seen until then is kept."

import os
import signal
import sys
from unittest.mock import patch

import pytest
from PIL import Image

from cvlab.core.io import LabError
from cvlab.deploy.video import camera_of, frames_of


@pytest.fixture
def film(tmp_path):
    "A film of six frames of different grey."
    av = pytest.importorskip("av")
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv444p"
        for i in range(6):
            image = Image.new("RGB", (32, 24), (40 * i,) * 3)
            out.mux(stream.encode(av.VideoFrame.from_image(image).reformat(format="yuv444p")))
        out.mux(stream.encode())
    return path


def test_ctrl_c_ends_it_and_is_not_an_error(film):
    handler = signal.getsignal(signal.SIGINT)
    with patch("cvlab.deploy.video._CAMERAS", {sys.platform: (None, str(film))}):
        camera = frames_of("0")
        seen = [next(camera).seconds for _ in range(2)]
        os.kill(os.getpid(), signal.SIGINT)
        assert [*camera] == [] and seen == [0, pytest.approx(0.1, abs=0.01)]
        assert signal.getsignal(signal.SIGINT) is handler  # afterwards it interrupts again
        assert len([*frames_of("0")]) == 6  # without it, all


def test_a_number_is_a_file_if_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert camera_of("0") == 0 and camera_of("street.gif") is None and camera_of("-1") is None
    (tmp_path / "0").mkdir()
    assert camera_of("0") is None
    pytest.importorskip("av")
    with pytest.raises(LabError, match="camera 99: there is none, or another program uses it"):
        next(frames_of("99"))
