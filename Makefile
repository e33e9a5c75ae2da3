# Every target builds its own virtual environment when there is none, and does nothing twice.
PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
THREADS ?= 2
PORT ?= 5000
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN := OMP_NUM_THREADS=$(THREADS) OMP_WAIT_POLICY=passive $(BIN)/lit-posttrain
QUICK := runs/quickstart/seed-$(SEED)
SEEDS := --seed_everything $(SEED) --data.seed $(SEED)

.PHONY: quickstart test check format smoke bench ui environment
.DELETE_ON_ERROR:

environment: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The main job: SFT of a tiny network, GRPO from it, an S-curve through the probes.
quickstart: $(QUICK)/grpo.done
	$(RUN) curve fit --experiment quickstart --x flops --output $(QUICK)/curve
	@echo
	@echo "The plot is $(QUICK)/curve/curve.png; the same, to explore, $(QUICK)/curve/curve.html"
	@echo "Look further:"
	@echo "  make ui                                            # all runs in MLflow, on http://127.0.0.1:5000"
	@echo "  $(BIN)/lit-posttrain test --config configs/quickstart/grpo.yaml \\\\"
	@echo "      --model.network.path $(QUICK)/model --ckpt_path $(QUICK)/grpo/last.ckpt"
	@echo "  $(BIN)/lit-posttrain fit --help                    # every setting"

$(QUICK)/model/config.json: | $(READY)
	rm -rf $(QUICK)
	$(RUN) fit --config configs/quickstart/sft.yaml $(SEEDS) --model.network.seed $(SEED) --checkpoint.dirpath $(QUICK)/sft
	$(RUN) export $(QUICK)/sft/last.ckpt $(QUICK)/model

$(QUICK)/grpo.done: $(QUICK)/model/config.json | $(READY)
	rm -rf $(QUICK)/grpo
	$(RUN) fit --config configs/quickstart/grpo.yaml $(SEEDS) --model.seed $(SEED) \
		--model.network.path $(QUICK)/model --checkpoint.dirpath $(QUICK)/grpo
	touch $@

test: $(READY)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

smoke: $(READY)
	for config in configs/smoke/*.yaml; do echo "$$config"; $(RUN) fit --config "$$config" || exit 1; done

bench: $(READY)
	for script in tools/bench_*.py; do echo "$$script"; OMP_NUM_THREADS=$(THREADS) $(BIN)/python "$$script" || exit 1; done

ui: $(READY)
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui \
		--backend-store-uri sqlite:///mlflow.db --artifacts-destination ./mlartifacts \
		--host 127.0.0.1 --port $(PORT) --workers 1
