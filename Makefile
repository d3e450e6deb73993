# Everything lives in this folder: the environment in .venv, Prefect's database and logs in .prefect, runs in output.
#
#   make build-hcoco                       set up, bring Prefect up, run the deployment on the embedded sample
#   make build-hcoco ARGS="-p samples=20"  the same with settings; `hcoco build --help` lists them
#   make build-hcoco KEEP=1                leave the server and the worker up afterwards
#   make test [ARGS="-k colour"]           set up and run the tests
#   make test-slow EXTRAS=test,ray         the tests that take more than about 20 seconds each; without `ray`, not Ray's
#   make test-by-hand EXTRAS=test,ray      the long forms of kills, clusters and servers: minutes each
#   make check                             ruff, mypy and import-linter
#   make setup                             only set up; does nothing where all is up to date
#   make clean                             stop the services, remove caches, .prefect and .venv; runs in output stay

VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS ?= test
ARGS   ?=

# Settings of the user's own that would redirect pip, Python or Prefect away from this folder.
unexport PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_TARGET PIP_USER PYTHONHOME PYTHONPATH
unexport $(filter PREFECT_%,$(.VARIABLES))
export PREFECT_HOME  := $(CURDIR)/.prefect
export MPLCONFIGDIR  := $(CURDIR)/.prefect/cache/matplotlib
export HCOCO_CACHE   ?= $(CURDIR)/.prefect/cache/hcoco
export DO_NOT_TRACK  := 1

.ONESHELL:
.SHELLFLAGS := -euc
.PHONY: build-hcoco test test-slow test-by-hand check setup clean

build-hcoco: setup
	@exec $(BIN)/python -m flows.services $(if $(KEEP),--keep) -- \
	  $(BIN)/prefect deployment run build-hcoco --watch $(ARGS)

test: setup
	@exec $(BIN)/python -m pytest $(ARGS)

test-slow: setup
	@exec $(BIN)/python -m pytest -m slow $(ARGS)

test-by-hand: setup
	@exec $(BIN)/python -m pytest -m by_hand $(ARGS)

check: EXTRAS := test,dev
check: setup
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The stamp holds what was installed, and where: a folder that was moved or copied gets an environment of its own.
# `.unfinished` tells of a set-up that was cut off; pip takes a package for whole as soon as half of it is there.
setup:
	@fail() { echo "hcoco: $$*" >&2; exit 1; }
	cv2_works() { $(BIN)/python -c 'import cv2' 2>/dev/null; }
	stamp="$(VENV)/.hcoco-setup"
	wanted="$$(cat pyproject.toml constraints.txt | cksum) $(CURDIR)"
	present="$$(cat "$$stamp" 2>/dev/null || true)"
	case "$$present" in
	  "$$wanted "*"$(EXTRAS)"*) if cv2_works; then exit 0; fi ;;
	esac

	free_kb=$$(df -Pk . | awk 'NR == 2 { print $$4 }')
	[ "$$free_kb" -ge 3000000 ] ||
	  fail "only $$((free_kb / 1000)) MB are free on this disk; set-up needs 3 GB: free some and run make again"

	python=
	for name in python3 python3.14 python3.13 python3.12 python3.11; do
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi
	done
	[ -n "$$python" ] || fail "no Python 3.11 or newer was found ($$(python3 --version 2>&1 || true)):" \
	  "install one, on Debian and Ubuntu by: apt install python3 python3-venv"

	if [ -e $(VENV)/.unfinished ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1 ||
	   ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
	   ! head -n 3 $(BIN)/pip | grep -qF "$(CURDIR)/$(VENV)/"; then
	  "$$python" -c 'import ensurepip, venv' 2>/dev/null ||
	    fail "$$python has no venv: install it, on Debian and Ubuntu by: apt install python3-venv"
	  echo "Making $(VENV) with $$("$$python" --version) ..."
	  rm -rf $(VENV)
	  "$$python" -m venv $(VENV) || fail "$$python cannot make $(VENV); on Debian and Ubuntu: apt install python3-venv"
	fi

	echo "Installing what hcoco needs into $(VENV); the first time this takes minutes ..."
	touch $(VENV)/.unfinished
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]' ||
	  fail "pip could not install the packages (see above); with the network and the disk in order, run make again"
	if ! cv2_works; then
	  echo "cv2 does not import; installing it afresh ..."
	  $(BIN)/python -m pip uninstall -qq -y opencv-python opencv-contrib-python opencv-contrib-python-headless \
	    opencv-python-headless 2>/dev/null || true
	  $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt opencv-python-headless
	  cv2_works || fail "cv2 does not import: $$($(BIN)/python -c 'import cv2' 2>&1 | tail -n 1)"
	fi
	echo "$$wanted $(EXTRAS)" > "$$stamp"
	rm $(VENV)/.unfinished

clean:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -c 'from flows import services; services.down(root=services.project_root())'; fi
	rm -rf $(VENV) .prefect build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
