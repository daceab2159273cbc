# `make train` and `make test` are all a fresh machine needs; the rest is for contributors.

PYTHON ?= python3

.PHONY: train test lint types wheel docs

train: .venv/train
	.venv/bin/gradguard train --model srn --clip-norm 5

# A long experiment started last would leave one worker idle: workers steal from each other.
test: .venv/test
	.venv/bin/pytest -n 2 --dist worksteal

lint: .venv/test
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: .venv/test
	.venv/bin/mypy

wheel: .venv/test
	tests/wheel.sh

docs: .venv/docs
	.venv/bin/mkdocs build --strict

# Stamps, each with what it adds to the environment. A change of the requirements or of
# their pins is newer than the stamp, so the next command installs again.
.venv/train: extra :=
.venv/test: extra := [test]
.venv/docs: extra := [docs]
.venv/train .venv/test .venv/docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --constraint constraints.txt --editable ".$(extra)"
	touch $@
