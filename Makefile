# `make demo` and `make test` are all a newcomer needs; both install what they need into .venv first.

.PHONY: help demo test check install install-dev metaworld maniskill clean

help:
	@echo "make demo     post-train the shipped policy in simulation and write a report page"
	@echo "make test     run the whole test suite"
	@echo "make check    format, lint, types, fast tests, the built wheel: before every commit"
	@echo "make install  only make .venv"
	@echo "make metaworld  an interpreter with Meta-World for the workers: .venv-metaworld"
	@echo "make maniskill  the same with ManiSkill, and a newer Mesa for it alone: .venv-maniskill"
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

maniskill: .venv-maniskill/.installed

.venv-maniskill/.installed: constraints-maniskill.txt scripts/mesa-backports
	$(or $(PYTHON),python3) -m venv .venv-maniskill
	.venv-maniskill/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-maniskill.txt
	scripts/mesa-backports .venv-maniskill/mesa
	touch $@

clean:
	rm -rf .venv .venv-metaworld .venv-maniskill build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
