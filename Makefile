# Everything runs inside .venv; nothing is installed outside this folder.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTHON ?= python3
# Beside what is to be done, so that the table is printed also where that is nothing.
REPRODUCE := snakemake --cores all -R all
# Where there is no GPU the tests run its kernels through Triton's interpreter; without it they skip them. Torch
# for CUDA has brought its own Triton.
TRITON := python -c 'import triton' 2>/dev/null || pip install --quiet triton==3.9.0 || true

.PHONY: reproduce paper paper-rl report smoke test lint ui setup

reproduce: setup  ## the full reproduction: results/default/report/report.md
	$(REPRODUCE)

paper: reproduce  ## all methods and ablations of the paper, with the models of `reproduce`: results/paper/report/report.md
	$(REPRODUCE) --configfile workflow/experiments/paper.yaml

paper-rl: setup  ## policies by the paper's own training, all 2.3 million steps: results/default/policies/paper-full
	snakemake --cores all train_paper_policies

report: setup  ## tables, figures and the walk through one answer in one file: results/default/report.html
	snakemake --report results/default/report.html

smoke: setup  ## the whole pipeline at toy size, in .smoke/
	$(REPRODUCE) --configfile tests/config.yaml --directory .smoke

test: setup  ## unit, property and end-to-end tests
	$(TRITON)
	pytest

lint: setup  ## formatting and static checks
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/experiment.smk workflow/experiments.smk workflow/rules
	snakemake --lint

ui: setup  ## browse all runs at http://127.0.0.1:5000
	MLFLOW_DISABLE_TELEMETRY=true mlflow ui --host 127.0.0.1 --workers 1 --backend-store-uri sqlite:///results/mlflow.db

setup: .venv/installed

.venv/installed: pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[pipeline,dev]'
	touch $@
