"Settings of `make lab`: this repository's own, nothing is written into the home folder."
from pathlib import Path

import nbformat

from cvlab.engine import tidy


def clean_pipeline_notebooks(model, path, **kwargs):
    "Pipeline notebooks are saved without outputs: their executed twins live in runs/."
    if model["type"] == "notebook" and Path(path).parent.name == "pipeline":
        model["content"] = tidy(nbformat.from_dict(model["content"]), outputs=False)


c = get_config()  # noqa: F821 (JupyterLab provides it)
c.FileContentsManager.pre_save_hook = clean_pipeline_notebooks
c.MultiKernelManager.default_kernel_name = "python3"
c.ServerApp.root_dir = str(Path(__file__).resolve().parent.parent)
c.LabApp.news_url = None # asks nobody whether they want news
