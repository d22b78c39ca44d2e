# Branch-Train-MiX as a graph of files; `make help` lists the targets.
#
#   data -> seed.pt -> math.pt, code.pt, wiki.pt -> btx_mixed.pt -> btx.pt -> report.md
#
# The experts depend on the seed alone, so `make -j3` trains them at the same time.

ifeq ($(OS),Windows_NT)
$(error On Windows, run this inside WSL, https://learn.microsoft.com/windows/wsl)
endif

PRESET ?= cpu
SEED   ?= 0
SEEDS  ?= 3
PYTHON ?= python3

# ---- the recipes: one for two laptop cores, one for a data-centre GPU ----------------------------------------------------

ifeq ($(PRESET),cpu)
OUT      ?= out
DATA     ?= data/bin
PREPARE   = --level 1
ALL       =
SHAPE     =
SEED_RUN  = --data general=0.84,math=0.08,code=0.02,wiki=0.06 --steps 3000 --lr 3e-3
BRANCH    = --steps 1000 --lr 1.5e-3
FINETUNE  = --data general=0.25,math=0.25,code=0.25,wiki=0.25 --steps 1500 --lr 2e-3 --alpha 0.01
else ifeq ($(PRESET),gpu)
OUT      ?= out/gpu
DATA     ?= data/bin/level2
PREPARE   = --level 2 --train_tokens 10000000
ALL       = --device cuda --fast
SHAPE     = --n_layer 8 --n_head 8 --n_embd 512 --d_ff 1408 --block_size 256
SEED_RUN  = --data general=0.84,math=0.08,code=0.02,wiki=0.06 --steps 5000 --batch_size 64 --lr 1e-3
BRANCH    = --steps 2500 --batch_size 64 --lr 5e-4
FINETUNE  = --data general=0.25,math=0.25,code=0.25,wiki=0.25 --steps 2500 --batch_size 64 --lr 5e-4 --alpha 0.01
else
$(error PRESET is cpu or gpu, not $(PRESET))
endif

PY = .venv/bin/python
RUN = $(ALL) --data_dir $(DATA) --seed $(SEED) --resume --out $@
EXPERTS = $(OUT)/math.pt $(OUT)/code.pt $(OUT)/wiki.pt
DOMAINS = $(addsuffix /meta.json,$(addprefix $(DATA)/,general math code wiki switch))
PREPARES = $(addprefix data/,prepare.py task.py general.py math.py code.py wiki.py btx.tiktoken)
LIBRARY = model.py data/loader.py $(addprefix support/,fast.py devices.py checkpoint.py files.py settings.py)
# under make -j the experts share the cores: a thread each is best, more would wait for one another; and lines instead of bars
AT_ONCE = $(if $(findstring jobserver,$(MAKEFLAGS)),OMP_NUM_THREADS=1 TQDM_DISABLE=1)
# GNU OpenMP's threads wait for each other by spinning, which makes everything many times slower as soon as another program wants
# a core. Spinning for a shorter time costs nothing alone, and half as much beside a busy program; much shorter slows training
export GOMP_SPINCOUNT ?= 6000
# let the C library keep what tensors free; asking the system for it anew costs a tenth of a training step
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647
export MALLOC_MMAP_THRESHOLD_ ?= 33554432

# ---- the pipeline --------------------------------------------------------------------------------------------------------

.PHONY: all
all: $(OUT)/report.md  ## (default) the whole pipeline: data, seed, experts, mix, finetune, evaluate
	@echo "The report is $(OUT)/report.md; its figures are in $(OUT)/figures."

$(DOMAINS): $(DATA)/%/meta.json: $(PREPARES) | .venv/ready
	$(PY) -m data.prepare --domains $* $(PREPARE) --out $(DATA)

$(OUT)/seed.pt: $(DOMAINS) train_expert.py $(LIBRARY)
	$(PY) train_expert.py $(RUN) $(SEED_RUN) $(SHAPE)

$(EXPERTS): $(OUT)/%.pt: $(OUT)/seed.pt
	$(AT_ONCE) $(PY) train_expert.py $(RUN) --init $(OUT)/seed.pt --data $*=0.95,general=0.05 $(BRANCH)

$(OUT)/soup.pt: $(OUT)/seed.pt $(EXPERTS) mix.py
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --soup --out $@

$(OUT)/btx_mixed.pt: $(OUT)/seed.pt $(EXPERTS) mix.py
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --top_k 2 --seed $(SEED) --out $@

$(OUT)/btx.pt: $(OUT)/btx_mixed.pt finetune_router.py
	$(PY) finetune_router.py $(RUN) --init $(OUT)/btx_mixed.pt $(FINETUNE)

EVALUATES = evaluate.py $(addprefix support/,btm.py explore.py explore.html figures.py grading.py)
$(OUT)/report.md: $(OUT)/soup.pt $(OUT)/btx.pt $(EVALUATES)
	$(PY) evaluate.py $(OUT)/seed.pt $(EXPERTS) $(OUT)/soup.pt $(OUT)/btx_mixed.pt $(OUT)/btx.pt --btm seed,math,code,wiki \
	    --data_dir $(DATA) --out $(OUT)

# ---- everything else -----------------------------------------------------------------------------------------------------

RUNS = $(shell seq 0 $$(( $(SEEDS) - 1 )))

.PHONY: data results bench test test-all torture lint help clean
bench: $(DOMAINS) .venv/dev  ## speed, as ratios: out/bench.json, twelve to twenty-five minutes with nothing else running
	$(PY) -m experiments.bench --data_dir $(DATA)

data: $(DOMAINS)  ## the domains alone, as tokens

results: .venv/ready  ## the pipeline for SEEDS seeds, and results/demo/: every run's numbers, mean and spread
	for s in $(RUNS); do $(MAKE) SEED=$$s OUT=out/seed$$s || exit 1; done
	$(PY) -m experiments.summarise $(RUNS:%=out/seed%) --out results/demo

test: .venv/dev  ## the tests but for the long ones, two to three minutes
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not long"

test-all: .venv/dev  ## all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest

torture: .venv/ready  ## kill runs at random moments, many more times than the tests do
	rm -rf out/torture
	OMP_NUM_THREADS=1 $(PY) tests/torture.py kill out/torture 30
	OMP_NUM_THREADS=1 $(PY) tests/torture.py soak out/torture 500

lint: .venv/dev  ## ruff
	$(PY) -m ruff check .

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-10s%s\n", $$1, $$2}'
	@echo
	@echo "Variables: PRESET=cpu|gpu  SEED=0  OUT=folder  DATA=folder  PYTHON=python3"
	@echo "           SEEDS=3 (of results and paper)  SIZE=tiny (a rehearsal of paper)"

clean:  ## delete prepared data and what was trained
	rm -rf out data/bin

.venv/ready: requirements.txt
	@$(PYTHON) -c "import sys; sys.version_info < (3, 10) and sys.exit('$(PYTHON) is Python %d.%d, but 3.10 or newer is needed:' \
	    ' name one, as in make PYTHON=python3.12' % sys.version_info[:2])"
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -r requirements.txt
	touch $@

.venv/dev: requirements-dev.txt .venv/ready
	.venv/bin/pip install -q -r requirements-dev.txt
	touch $@

include experiments/experiments.mk  # paper, grid, regimes
