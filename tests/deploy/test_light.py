"One image, named from the command line: an exported file answers without torch, whose import takes longer than all else."

import subprocess
import sys

from conftest import TOP
from PIL import Image

from cvlab.deploy.exported import tiny_model

PROBE = """
import sys
from cvlab.cli.main import main
try:
    main()
except SystemExit as e:
    assert not e.code, e.code
print("torch" in sys.modules, file=sys.stderr)
"""


def test_an_exported_file_answers_without_torch(tmp_path):
    model = tiny_model(tmp_path / "model")
    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "red.png")
    (tmp_path / "odd.png").write_bytes(b"no image")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "predict", "--run", model.parent, tmp_path],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    )
    header, odd, red = done.stdout.splitlines()
    assert header == "path,label,probability,error"
    assert "no image inside" in odd and red.startswith(f"{tmp_path}/red.png,red,1.000000,")
    assert done.stderr.endswith("False\n")
