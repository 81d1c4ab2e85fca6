# Two commands matter: `make demo` and `make test`. Both set up what they need;
# the second time that takes no longer than a look at a time stamp.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo demo-teachers test lint bench lock clean

setup: $(READY)

# torch goes first: with it in place nothing else asks the registry for another build
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch torchvision
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

## two digit detectors -> one, no labels, in minutes; ends with a report page
demo: $(READY)
	$(BIN)/python -m demo.scenes --out demo/output/data --sets pool evaluation
	$(BIN)/detcompose compose demo/recipe.yaml
	@echo "Open the report: $$($(BIN)/python -c 'from tasks.home import Home; print(Home.default().reports / "digits" / "report.html")')"

## trains the two teachers that demo/teachers/ holds
demo-teachers: export DETCOMPOSE_HOME = demo/output/home
demo-teachers: $(READY)
	$(BIN)/python -m demo.scenes --out demo/output/data --sets teacher-low teacher-high
	$(BIN)/detcompose train --name digits-low --images demo/output/data/teacher-low/scenes.json \
		--architecture yolox_pico --image-size 192 --epochs 14 --augmentation light --no-flip
	$(BIN)/detcompose train --name digits-high --images demo/output/data/teacher-high/scenes.json \
		--architecture yolox_nano --image-size 192 --epochs 14 --augmentation light --no-flip
	rm -rf demo/teachers && cp -r demo/output/home/teachers demo/teachers

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks.teachers
	$(BIN)/python -m benchmarks.ensembles
	$(BIN)/python -m benchmarks.ablation
	$(BIN)/python -m benchmarks.discovery
	$(BIN)/python -m benchmarks.fusion
	$(BIN)/python -m benchmarks.calibration
	$(BIN)/python -m benchmarks.domain_alarm
	$(BIN)/python -m benchmarks.chance
	$(BIN)/python -m benchmarks.pseudo_labels
	$(BIN)/python -m benchmarks.start_up
	$(BIN)/python -m benchmarks.overhead

lock: $(READY)
	$(BIN)/pip freeze --exclude-editable --exclude pip --exclude setuptools

## what can be made again; teachers, students and the registry in .detcompose cannot
clean:
	rm -rf demo/output build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
