"Train image models and show how they were trained."
import warnings

from .core.extras import explain_missing

# fastai decorates two of its functions with it; nobody who reads a run can do anything about that
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# in an installation for predictions alone, a module of the lab says what to install
explain_missing()

__version__ = "0.1.0"


def load_ipython_extension(shell):
    "`%load_ext cvlab`: the magics %runs and %params (`cvlab.explain.browse`)."
    from cvlab.explain.browse import load_ipython_extension as load
    load(shell)
