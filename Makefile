# Everything runs in .venv, made here from nothing.
VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(VENV)/bin/pip install --quiet --constraint constraints.txt
STAMP := $(VENV)/.installed
CORE := $(wildcard src/core/*) CMakeLists.txt pyproject.toml
# Tests of the command line, and of what jobs read from and answer to.
EDGES := tests/cli tests/serving tests/streams

.PHONY: demo test test-edges test-parts test-all check bench docs format clean

# A year of departures is sent in, and arrivals as they come hours later; predictions are asked for, and a model learns
# and serves meanwhile.
demo: $(STAMP)  ## watch it learn and serve; stop it with Ctrl-C, run it again: it goes on
	@mkdir -p models
	@$(PYTHON) examples/send_departures.py > models/send_departures.log 2>&1 & sender=$$!; \
	trap "kill $$sender 2> /dev/null || true" EXIT; \
	$(VENV)/bin/onstream run examples/flights_join.py || test $$? -eq 130

# In two halves at once, as most tests keep one processor busy: the edges of a job, and the parts it is made of. Arrow
# Flight by itself: the standard clients bring gevent and a second gRPC into the process of the tests.
test: $(STAMP)  ## all tests but the long ones
	$(MAKE) --jobs 2 --output-sync=line test-edges test-parts

test-edges:
	$(PYTHON) -m pytest $(EDGES) --ignore-glob='*/test_flight*'
	$(PYTHON) -m pytest tests/serving/test_flight*.py

test-parts:
	$(PYTHON) -m pytest $(EDGES:%=--ignore %)

test-all: $(STAMP)  ## every test
	$(PYTHON) -m pytest -m "long or not long" --hypothesis-profile thorough --ignore-glob='*/test_flight*'
	$(PYTHON) -m pytest -m "long or not long" --hypothesis-profile thorough tests/serving/test_flight*.py

check: $(STAMP)  ## style, types, floors
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/clang-format --dry-run --Werror src/core/*.cpp src/core/*.h

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i src/core/*.cpp src/core/*.h

bench: $(STAMP)  ## every figure, one JSON line each; takes a while
	$(PIP) --requirement bench/requirements.txt
	$(PYTHON) -m bench.table
	$(PYTHON) -m bench.linear
	$(PYTHON) -m bench.formats
	$(PYTHON) -m bench.kafka
	$(PYTHON) -m bench.join
	$(PYTHON) -m bench.late_feedback
	$(PYTHON) -m bench.zoo
	$(PYTHON) -m bench.keras
	$(PYTHON) -m bench.evolution
	$(PYTHON) -m bench.deepfm
	$(PYTHON) -m bench.checkpoint
	$(PYTHON) -m bench.flights
	$(PYTHON) -m bench.freshness
	$(PYTHON) -m bench.serving
	$(PYTHON) -m bench.endurance

docs: $(STAMP)  ## the pages as a site, in site/
	$(PIP) --group docs
	$(VENV)/bin/mkdocs build --quiet --strict

$(STAMP): $(CORE) constraints.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) "scikit-build-core>=0.10" "nanobind>=2.4" cmake ninja
	$(PIP) --group test --group check
	$(PIP) --no-build-isolation --editable ".[tensorboard,prometheus,serving,kafka,formats,keras,river,sklearn]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build models site
