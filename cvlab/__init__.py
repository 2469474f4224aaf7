"""Train image models and show how they were trained.

    import cvlab
    run = cvlab.train("photos", model="mobilenetv2_100", weights="pretrained", epochs=10)
    run.metrics, run.history
    run.plot()
    run.predict("x.jpg", explain=True)
    cvlab.load("runs/local/own").compare(run)

The public names below are imported when they are first used, so `import cvlab` costs next to nothing.
"""
import warnings as _warnings
from importlib import import_module as _import

from .core.extras import explain_missing as _explain_missing

# fastai decorates two of its functions with it; nobody who reads a run can do anything about that
_warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# in an installation for predictions alone, a module of the lab says what to install
_explain_missing()

__version__ = "0.1.0"

# the public surface, by the module where each name lives
_PUBLIC = {
    "cli.api": "train load crossval tune suspects label TrainedRun",
    "core.io": "LabError",
    "core.params": "Params resolve",
    "core.repro": "pick_device seed_everything",
    "core.style": "use_lab_style save_figure",
    "data.samples": "find_samples check_classes split_samples read_split write_split",
    "data.importers": "open_data",
    "data.splits": "make_folds",
    "data.loaders": "Batches image_cache",
    "data.augment": "augmenter",
    "models.create": "create_model save_model load_model",
    "tasks.base": "Task Prediction",
    "tasks.infer": "find_weights",
    "training.learner": "create_learner",
    "training.lr_finder": "find_lr",
    "evaluation.metrics": "evaluate read_predictions write_predictions wilson_interval",
    "evaluation.predict": "subset_predictions",
    "evaluation.compare": "effect effects_table calibration",
    "explain.attribution": "heatmaps",
    "explain.diagnose": "diagnose",
    "explain.plots": "plot_history plot_confusion show_images",
    "deploy.predictor": "Predictor classify",
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name):
    "Import a public name when it is first asked for; its docstring then explains every parameter."
    if name not in _HOME: raise AttributeError(f"module 'cvlab' has no attribute {name!r}")
    from .core.docstrings import explain_parameters
    module = _import(f".{_HOME[name]}", __name__)
    for also in _PUBLIC[_HOME[name]].split(): # what `train` returns is explained as well
        globals()[also] = explain_parameters(getattr(module, also))
    return globals()[name]


def __dir__(): return sorted({*globals(), *__all__})


def load_ipython_extension(shell):
    "`%load_ext cvlab`: the magics %runs and %params (`cvlab.explain.browse`)."
    from cvlab.explain.browse import load_ipython_extension as load
    load(shell)
