# `make demo` and `make test` are all a newcomer needs; both install what they need into .venv first.

.PHONY: help demo test check install install-dev metaworld genesis clean

help:
	@echo "make demo     post-train the shipped policy in simulation and write a report page"
	@echo "make test     run the whole test suite"
	@echo "make check    format, lint, types, fast tests, the built wheel: before every commit"
	@echo "make install  only make .venv"
	@echo "make metaworld  an interpreter with Meta-World for the workers: .venv-metaworld"
	@echo "make genesis  an interpreter with Genesis and regrip: .venv-genesis (8 GB)"
	@echo "make clean    remove .venv and caches; runs/ stays"

demo: install
	.venv/bin/regrip train demo

test: install-dev
	.venv/bin/python -m pytest

check: install-dev
	scripts/check

install:
	@scripts/install base

install-dev:
	@scripts/install dev

metaworld: .venv-metaworld/.installed

.venv-metaworld/.installed: constraints-metaworld.txt
	$(or $(PYTHON),python3) -m venv .venv-metaworld
	.venv-metaworld/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-metaworld.txt
	touch $@

genesis: .venv-genesis/.installed

.venv-genesis/.installed: constraints-genesis.txt pyproject.toml
	$(or $(PYTHON),python3) -m venv .venv-genesis
	.venv-genesis/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-genesis.txt -e '.[genesis,dev]'
	touch $@

clean:
	rm -rf .venv .venv-metaworld .venv-genesis build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
