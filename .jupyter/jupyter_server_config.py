"Settings of `make lab`: this repository's own, nothing is written into the home folder."
from pathlib import Path

import nbformat

from cvlab.runs.engine import tidy

TOP = Path(__file__).resolve().parent.parent
BARE = ("nbs/pipeline/", "nbs/pages/lab.ipynb") # stored without outputs: their executed twins live in runs/, or nowhere


def number(cells):
    "Counts say where a cell stands, not how often it was tried: the same as after a run from top to bottom."
    for i, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        if cell.execution_count: cell.execution_count = i
        for out in cell.outputs:
            if out.get("execution_count"): out["execution_count"] = i


def clean_notebook(model, path, **kwargs):
    "What `cvlab clean` would do before the commit is done at once, so that a look at a notebook leaves no trace in git."
    if model["type"] != "notebook" or not path.lstrip("/").startswith(("nbs/", "runs/")): return
    nb = tidy(nbformat.from_dict(model["content"]), str(TOP), outputs=not path.lstrip("/").startswith(BARE))
    number(nb.cells)
    model["content"] = nb


c = get_config()  # noqa: F821 (JupyterLab provides it)
c.FileContentsManager.pre_save_hook = clean_notebook
c.MultiKernelManager.default_kernel_name = "python3"
c.ServerApp.root_dir = str(TOP)
c.LabApp.news_url = None # asks nobody whether they want news
c.LanguageServerManager.node_roots = [str(TOP/".jupyter")] # `make completion`; to ask npm would write into the home folder
c.LanguageServerManager.virtual_documents_dir = str(TOP/".cvlab"/"jupyter"/"documents") # and not beside the notebooks
