# `make demo` and `make test` are all a newcomer needs; both install what they need into .venv first.

.PHONY: help demo test realtime long check install install-dev metaworld maniskill robosuite libero gymnasium genesis referees ros1 dds-peer clean

help:
	@echo "make demo     post-train the shipped policy in simulation and write a report page"
	@echo "make test     run the whole test suite"
	@echo "make realtime the robot's tests that play against the clock, on a quiet machine"
	@echo "make long     soaks, and learning on the simulated robot from end to end"
	@echo "make check    format, lint, types, fast tests, the built wheel: before every commit"
	@echo "make install  only make .venv"
	@echo "make metaworld  an interpreter with Meta-World for the workers: .venv-metaworld"
	@echo "make maniskill  the same with ManiSkill, and a newer Mesa for it alone: .venv-maniskill"
	@echo "make robosuite  likewise for robosuite: .venv-robosuite"
	@echo "make libero   likewise for LIBERO, whose assets you supply: .venv-libero"
	@echo "make gymnasium  one with gym-pusht, gym-aloha and Gymnasium-Robotics: .venv-gymnasium"
	@echo "make genesis  an interpreter with Genesis and regrip: .venv-genesis (8 GB)"
	@echo "make referees  an interpreter with lerobot and others that check what our converters write: .venv-referees"
	@echo "make ros1     Debian's rospy and rosmaster, for \`regrip node --transport ros1\` and its tests (25 MB)"
	@echo "make dds-peer  Debian's Fast DDS, for the tests of \`regrip node --transport dds\` against it (41 MB)"
	@echo "make clean    remove .venv and caches; runs/ stays"

demo: install
	.venv/bin/regrip train demo

test: install-dev referees
	.venv/bin/python -m pytest

realtime: install-dev referees
	REGRIP_REALTIME=1 .venv/bin/python -m pytest -m realtime

long: install-dev referees
	REGRIP_LONG=1 .venv/bin/python -m pytest -m long --timeout 0 -o faulthandler_timeout=0

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

# The packages are installed without what they ask for: most of it (torch, transformers, mink, pynput, pytest)
# is not imported on the way we go, and the rest is in the list.
robosuite: .venv-robosuite/.installed
libero: .venv-libero/.installed

.venv-robosuite/.installed .venv-libero/.installed: .venv-%/.installed: constraints-%.txt
	$(or $(PYTHON),python3) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-$*.txt
	touch $@

gymnasium: .venv-gymnasium/.installed

.venv-gymnasium/.installed: constraints-gymnasium.txt
	$(or $(PYTHON),python3) -m venv .venv-gymnasium
	.venv-gymnasium/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-gymnasium.txt
	touch $@

genesis: .venv-genesis/.installed

.venv-genesis/.installed: constraints-genesis.txt pyproject.toml
	$(or $(PYTHON),python3) -m venv .venv-genesis
	.venv-genesis/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-genesis.txt -e '.[genesis,dev]'
	touch $@

# Small, for it shares what .venv has: a .pth file names that folder. The links are for torchcodec, which brings no
# FFmpeg: PyAV does. The .pth file comes last, or pip would think that half of the list is there.
referees: install-dev .venv-referees/.installed

.venv-referees/.installed: constraints-referees.txt scripts/referees-ffmpeg
	rm -rf .venv-referees
	.venv/bin/python -m venv .venv-referees
	.venv-referees/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-referees.txt
	.venv/bin/python scripts/referees-ffmpeg .venv-referees/ffmpeg
	.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > .venv-referees/shared.pth
	mv .venv-referees/shared.pth "$$(.venv-referees/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/"
	touch $@

ros1:
	scripts/install-ros1

dds-peer:
	scripts/install-dds-peer

clean:
	rm -rf .venv .venv-*/ build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
