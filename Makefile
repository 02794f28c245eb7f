# `make help` lists what there is. All of it lives in .venv, which `make env` makes from nothing but Python and make.

PYTHON ?= python3
LOCK := constraints/airflow-3.3.txt
READY := .venv/.ready
BIN := .venv/bin

# Airflow starts many processes: without .pyc files each of them takes twice as long.
unexport PYTHONDONTWRITEBYTECODE
# Nothing but .venv and the lock decides what is installed there and imported from there.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env test matrix lint docs dist demo audit chaos production bench bench-quick airflow constraints clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(READY)  ## make .venv: Airflow, the provider, the tools (PYTHON=... chooses the interpreter)

# A .venv without its stamp was interrupted: it is made from scratch. One with an old stamp is brought up to date.
$(READY): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "make: '$(PYTHON)' is not Python 3.10 to 3.13: install one, name it: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: '$(PYTHON)' cannot make environments: install its venv and ensurepip (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	@rm -f $@
	@sed -n '/^uv==/,/[^\\]$$/p' $(LOCK) | $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r /dev/stdin
	@echo "make: installing Airflow and the tools into .venv"
	@$(BIN)/uv pip sync --python $(BIN)/python --quiet --require-hashes --compile-bytecode $(LOCK)
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

test: lint  ## all tests, with coverage: in a real Airflow 3.3, in a browser, Airflow 2.11, the wheel (half an hour)
	$(BIN)/pytest -n 3 --dist=loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered
	$(BIN)/coverage report --include='*/apiframe/*,*/hooks/*,*/operators/*,*/triggers/*' --fail-under=95
	$(BIN)/nox --no-error-on-missing-interpreters --session unit-2.11-3.10 wheel-2.11.0 wheel-3.3.0

matrix: env  ## with each Airflow on each Python: unit tests, a running one; lowest versions; the wheel (hours)
	$(BIN)/nox --no-error-on-missing-interpreters

lint: env  ## style, types, spelling, dangerous calls: ruff, mypy, codespell, bandit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/bandit --quiet --recursive --severity-level=medium airflow_provider_hailuo

docs: env  ## build the documentation into docs/_build/html; a warning is an error
	AIRFLOW_HOME=$(CURDIR)/docs/_build/airflow $(BIN)/sphinx-build --quiet --nitpicky --fail-on-warning docs docs/_build/html

dist: env  ## build sdist and wheel into dist/, check them, install each into an empty environment (ten minutes)
	$(BIN)/nox --session dist dist-sdist dist-wheel

demo: env  ## make a video: a real Airflow, a local sandbox (with APIFRAME_API_KEY=... the real API)
	$(BIN)/python dev/demo.py

audit: env  ## look for known vulnerabilities in what .venv holds
	$(BIN)/pip-audit --local --skip-editable --progress-spinner=off

chaos: env  ## break a real Airflow on purpose, count videos and credits (half an hour; PRODUCTION=1: that of production)
	$(BIN)/python dev/chaos.py $(if $(PRODUCTION),--production)

production: env  ## tests on PostgreSQL, Redis, Celery, two of each component (needs redis-server and haproxy)
	$(BIN)/pytest tests/versions --deployment=production
	$(BIN)/pytest tests/examples --deployment=production

bench: env  ## measure what waiting costs, beside other ways: JSON, tables, plots (an hour; needs a quiet machine)
	$(BIN)/nox --session bench

bench-quick: env  ## the same with few videos (three minutes)
	$(BIN)/nox --session bench -- --quick

airflow: env  ## start an Airflow with the example DAGs and a sandbox, until Ctrl-C
	$(BIN)/python dev/demo.py --stay

constraints: env  ## renew the locked environments of constraints/
	$(BIN)/nox --session lock

clean:  ## remove what the other targets made
	rm -rf .venv .nox .demo docs/_build .screenshots dist build .coverage .mypy_cache .pytest_cache .ruff_cache
