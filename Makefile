# Two commands do all their own set-up: `make demo` and `make test`. PYTHON=/path/to/python3.13 uses another interpreter.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv/$(VERSION)
BIN := $(VENV)/bin
# tflite-runtime, the runtime for 32-bit ARM, ends at Python 3.11: its tests run where there is one.
PYTHON_TFLITE ?= $(if $(filter 3.11,$(VERSION)),$(PYTHON),$(shell python3.11 --version >/dev/null 2>&1 && echo python3.11))
VENV_TFLITE := .venv/tflite-runtime
PYTEST_ARGS ?=
SECONDS ?= 60
MINUTES ?= 30
TRIM ?= collector
STORM_ARGS ?=

.PHONY: demo test check unit test-slow soak fuzz storm test-drivers test-systemd bench models zoo swing learn loop schemas install uninstall clean help

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.ready-demo models  ## the whole thing on this machine: embedded broker, bundled clip, real model
	$(BIN)/edge-agent demo

test: check unit  ## everything that CI does: lint, types, import rules, all tests

check: $(VENV)/.ready-test  ## lint, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit: $(VENV)/.ready-test .cache/.ready-test  ## all tests, on both TFLite runtimes
	$(BIN)/python -m pytest -n 4 --dist loadfile -m 'not slow' $(PYTEST_ARGS)
ifneq ($(PYTHON_TFLITE),)
	$(MAKE) --no-print-directory unit-tflite
else
	@echo "no Python 3.11 here: the tests on tflite-runtime are left out (PYTHON_TFLITE=/path/to/python3.11 brings them in)"
endif

.PHONY: unit-tflite
unit-tflite: $(VENV_TFLITE)/.ready .cache/.ready-test
	EDGE_AGENT_RUNTIME=tflite-runtime $(VENV_TFLITE)/bin/python -m pytest -n 4 --dist loadfile -m 'runtime and not slow' $(PYTEST_ARGS)

test-slow: $(VENV)/.ready-test .cache/.ready-test  ## the long forms of the fault and power-cut tests
	$(BIN)/python -m pytest -m slow --timeout 3600 $(PYTEST_ARGS)

soak: $(VENV)/.ready-test .cache/.ready-test  ## the daemon among faults: MINUTES=30, or FAULTS=300 of all kinds; TRIM=broker, SEED=
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --trim $(TRIM) $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED))

fuzz: $(VENV)/.ready-fuzz  ## everything that reads bytes from outside, with atheris: SECONDS=60 each, TARGET=command for one
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(if $(TARGET),--target $(TARGET))

test-drivers: $(VENV)/.ready-test .cache/drivers/release  ## cameras, sensors, sound on real kernel drivers, in a virtual machine
	$(BIN)/python -m tests.drivers.vm .cache/drivers $(BIN)/python -m pytest -p no:cacheprovider -p no:hypothesispytest \
		--basetemp /run/tmp/pytest -v tests/drivers $(PYTEST_ARGS)

.cache/drivers/release: tools/setup/drivers.sh tests/drivers/init
	tools/setup/drivers.sh .cache/drivers

storm: $(VENV)/.ready-test  ## 1,000 simulated devices through a broker's restart and power cuts (mosquitto; a minute)
	$(BIN)/python tools/simulate_fleet.py --own-broker $(STORM_ARGS)

SYSTEMD := .cache/systemd/release .cache/systemd/wheels/ready .cache/drivers/release
test-systemd: $(VENV)/.ready-test models $(SYSTEMD)  ## the service under a systemd of its own, as root
	$(BIN)/python -m tests.systemd.guest .cache/systemd container tests/systemd/test_service.py $(PYTEST_ARGS)
	$(BIN)/python -m tests.systemd.guest .cache/systemd machine tests/systemd/test_machine.py $(PYTEST_ARGS)

.cache/systemd/release: tools/setup/systemd.sh tests/systemd/job.service
	tools/setup/systemd.sh root .cache/systemd

.cache/systemd/wheels/ready: pyproject.toml | $(VENV)/.ready-test .cache/systemd/release
	tools/setup/systemd.sh wheels .cache/systemd $(BIN)/python

bench: $(VENV)/.ready-demo models  ## measure this machine
	$(BIN)/edge-agent bench

models: $(VENV)/.ready-demo  ## fetch the models of this repository
	@$(BIN)/python tools/fetch_models.py face

zoo: $(VENV)/.ready-test  ## build EfficientNet-Lite0 and an int8 SSD for the tests (TensorFlow: 2 GB, 5 minutes)
	$(BIN)/python tools/build_zoo.py

swing: $(VENV)/.ready-demo  ## train the anomaly model of config.sensors.yaml anew, and measure it (TensorFlow: 2 GB, some minutes)
	$(BIN)/python tools/fetch_models.py series
	$(BIN)/python tools/watch_data.py
	$(BIN)/python tools/train_anomaly.py --example --force
	$(BIN)/python tools/evaluate.py models/swing --data agent/demo/swing.csv --rate-hz 50 --label-column is_anomaly \
		--write-metrics --dataset "seglearn's watch: people 8 to 10 of 10 (agent/demo/swing.csv); threshold chosen on people 6 and 7"

MNIST := .cache/data/mnist
LEARNED := .cache/learn
learn: $(VENV)/.ready-demo $(MNIST)/index.csv  ## the learning loop on MNIST: train, measure, optimise (TensorFlow: 2 GB; ten minutes)
	$(BIN)/python tools/build_zoo.py --only-venv
	$(BIN)/python tools/train.py --data $(MNIST) --out $(LEARNED) --force --name digits-mlp --network mlp --epochs 8
	$(BIN)/python tools/train.py --data $(MNIST) --out $(LEARNED) --force --name digits-cnn --network cnn --shift-px 1
	$(BIN)/python tools/optimize.py $(LEARNED)/digits-mlp/1 --data $(MNIST) --only fp16 dynamic int8 --force
	$(BIN)/python tools/optimize.py $(LEARNED)/digits-cnn/1 --data $(MNIST) --shift-px 1 --plot $(LEARNED)/pareto.png --force
	$(BIN)/python tools/evaluate.py $(LEARNED)/digits-cnn --data $(MNIST) --plot $(LEARNED)/confusion.png

loop: $(VENV)/.ready-test $(MNIST)/index.csv  ## a device that meets unknown digits: drift, feedback, a better model (TensorFlow; ten minutes)
	$(BIN)/python tools/build_zoo.py --only-venv
	$(BIN)/python tools/learning_loop.py

$(MNIST)/index.csv: | $(VENV)/.ready-demo
	$(BIN)/python tools/fetch_models.py digits
	$(BIN)/python tools/dataset.py mnist --out $(MNIST)

schemas: $(VENV)/.ready-demo  ## write docs/schema/ anew
	$(BIN)/edge-agent schema --messages docs/schema

install:  ## as root: into /opt/edge-agent, with user, unit and configuration; twice does no harm
	systemd/install.sh

uninstall:  ## as root: take it out again; configuration and data stay
	systemd/uninstall.sh

clean:
	rm -rf .venv .venv-zoo .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

$(BIN)/python:
	tools/setup/venv.sh $(PYTHON) $(VENV)

$(VENV)/.ready-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.ready-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,check,parquet]'
	@touch $@

$(VENV)/.ready-fuzz: pyproject.toml | $(VENV)/.ready-test
	$(BIN)/python -m pip install --quiet --editable '.[test,fuzz]'
	@touch $@

$(VENV_TFLITE)/.ready: pyproject.toml
	tools/setup/venv.sh $(PYTHON_TFLITE) $(VENV_TFLITE)
	$(VENV_TFLITE)/bin/python -m pip install --quiet --editable '.[test,tflite-runtime]'
	@touch $@

# Servers and models for the tests; what can't be had is said, and the tests that need it are skipped (in CI they fail).
.cache/.ready-test: tools/fetch_models.py tools/setup/system.sh | $(VENV)/.ready-test
	tools/setup/system.sh
	$(BIN)/python tools/fetch_models.py face test || [ $$? -eq 1 -a -z "$$CI" ]
	@mkdir -p .cache && touch $@
