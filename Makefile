# make install | demo | test | bench | lint | clean
#
#   TORCH=...    what pip is told for torch, e.g. "torch==2.13.0 --index-url ..." for the CPU build
#   ONNX=gpu     onnxruntime-gpu instead of onnxruntime
#   PYTHON=...   the Python to use, 3.10 to 3.12
#   SECONDS=...  how long `make demo` runs
#   ARGS=...     further arguments for a2p (demo, bench) or pytest (test)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: install demo test bench lint clean

export PYTHON TORCH ONNX

STAMP := .venv/installed
TEST_STAMP := .venv/installed_for_tests
INPUTS := Makefile CMakeLists.txt package.xml pyproject.toml setup.py a2p_ros/__init__.py \
          $(wildcard cmake/* config/* launch/* msg/* requirements/* ros_bare/tf2_msgs/* ros_bare/tf2_msgs/msg/* rviz/* scripts/*) \
          tools/install.sh tools/env.sh tools/find_python.sh tools/system_packages.sh
RUN := . tools/env.sh &&

# make's own SECONDS, not the one bash counts in
ifneq ($(filter command line environment,$(origin SECONDS)),)
DEMO_SECONDS := --seconds $(SECONDS)
endif
unexport SECONDS

install: $(STAMP)

$(STAMP): $(INPUTS)
	@tools/install.sh
	@touch $@

$(TEST_STAMP): $(STAMP)
	@tools/system_packages.sh test
	@touch $@

demo: $(STAMP)
	@$(RUN) a2p demo $(DEMO_SECONDS) $(ARGS)

test: $(TEST_STAMP)
	@$(RUN) python3 -m pytest $(ARGS)

bench: $(STAMP)
	@$(RUN) a2p bench pipeline $(ARGS)
	@$(RUN) a2p bench ros $(ARGS)

lint: $(STAMP)
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy

clean:
	rm -rf .venv build install log out
