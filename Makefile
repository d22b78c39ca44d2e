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
PYTHON ?= python3

# ---- the recipe: for two laptop cores, for a data-centre GPU, or a rehearsal of seconds -----------------------------------
# what the seed, a branch (95 % its own domain) and MoE finetuning read; S, B, F: their steps. Rates: see results/grid.md

NAMES     = math code wiki
TESTED    = general trivia $(NAMES) switch
SEED_DATA = general=30,trivia=55,math=10,code=2.5,wiki=2.5
REPLAY    = general=2,trivia=3
BRANCH    = $*=95,$(REPLAY)
MIXTURE   = general=6,trivia=13,math=27,code=27,wiki=27
ALPHA     = 0.01
ifeq ($(PRESET),cpu)
INTO     ?= out
DATA     ?= data/bin
PREPARE   = --level 1
SHAPE     = --n_layer 4 --n_head 4 --n_embd 64
D_FF      = 256
S         = 6500
B         = 1100
F         = 770
LR_SEED   = 5e-3
LR_BRANCH = 1.5e-3
LR_BTX    = 1e-3
else ifeq ($(PRESET),gpu)
INTO     ?= out/gpu
DATA     ?= data/bin/level2
PREPARE   = --level 2 --train_tokens 10000000
BATCH     = 64
ALL       = --device cuda --fast --batch_size $(BATCH)
SHAPE     = --n_layer 8 --n_head 8 --n_embd 512 --block_size 256
D_FF      = 2048
S         = 13000
B         = 2200
F         = 1540
LR_SEED   = 1e-3
LR_BRANCH = 5e-4
LR_BTX    = 5e-4
else ifeq ($(PRESET),tiny)
INTO     ?= out/tiny
DATA     ?= data/bin/tiny
PREPARE   = --train_tokens 5000 --val_tokens 800 --tasks 4
ALL       = --batch_size 2 --eval_windows 1
SHAPE     = --n_layer 2 --n_head 2 --n_embd 16 --block_size 32
D_FF      = 16
S         = 4
B         = 4
F         = 8
LR_SEED   = 5e-3
LR_BRANCH = 1.5e-3
LR_BTX    = 2e-3
EVALUATE  = --tasks 4 --windows 2
else ifneq ($(and $(filter text smol,$(PRESET)),$(wildcard experiments/real.mk)),)
include experiments/real.mk
else
$(error PRESET is cpu, gpu, tiny, text or smol, not $(PRESET))
endif

OUT ?= $(INTO)/seed$(SEED)
PY = .venv/bin/python
TRAIN    = $(PY) train_expert.py $(RUN)
FINETUNE = $(PY) finetune_router.py $(RUN) --init $<
RUN      = $(ALL) --data_dir $(DATA) --seed $(SEED) --resume --out $@
EXPERTS = $(NAMES:%=$(OUT)/%.pt)
DOMAINS = $(TESTED:%=$(DATA)/%/meta.json)
space := $() $()
comma := ,
SEED_AND_EXPERTS = seed,$(subst $(space),$(comma),$(strip $(NAMES)))
PREPARES = $(addprefix data/,prepare.py task.py general.py trivia.py $(NAMES:%=%.py) btx.tiktoken)
LIBRARY = model.py data/loader.py $(addprefix support/,fast.py devices.py checkpoint.py ledger.py files.py settings.py)
# under make -j the experts share the cores: a thread each is best, more would wait for one another; and lines instead of bars
ONE_THREAD = OMP_NUM_THREADS=1 TQDM_DISABLE=1
AT_ONCE = $(if $(findstring jobserver,$(MAKEFLAGS)),$(ONE_THREAD))
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

ifndef TEXTS
$(DOMAINS): $(DATA)/%/meta.json: $(PREPARES) | .venv/ready
	$(PY) -m data.prepare --domains $* $(PREPARE) --out $(DATA)
endif

ifndef IMPORTED
$(OUT)/seed.pt: $(DOMAINS) train_expert.py $(LIBRARY)
	$(TRAIN) --data $(SEED_DATA) $(SHAPE) --d_ff $(D_FF) --steps $(S) --lr $(LR_SEED)
endif

$(EXPERTS): $(OUT)/%.pt: $(OUT)/seed.pt
	$(AT_ONCE) $(TRAIN) --init $< --data $(BRANCH) --steps $(B) --lr $(LR_BRANCH)

$(OUT)/soup.pt: $(OUT)/seed.pt $(EXPERTS) mix.py | $(OUT)/btx_mixed.pt  # after it, or make -j would print two tables at once
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --soup --out $@

$(OUT)/btx_mixed.pt: $(OUT)/seed.pt $(EXPERTS) mix.py
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --top_k 2 --seed $(SEED) --out $@

$(OUT)/btx.pt: $(OUT)/btx_mixed.pt finetune_router.py
	$(FINETUNE) --data $(MIXTURE) --steps $(F) --lr $(LR_BTX) --alpha $(ALPHA)

PIPELINE = $(OUT)/seed.pt $(EXPERTS) $(OUT)/soup.pt $(OUT)/btx_mixed.pt $(OUT)/btx.pt
EVALUATES = evaluate.py $(addprefix support/,btm.py explore.py explore.template figures.py grading.py)
$(OUT)/report.md: $(PIPELINE) $(EVALUATES)
	$(PY) evaluate.py $(PIPELINE) --btm $(SEED_AND_EXPERTS) $(EVALUATE) --data_dir $(DATA) --out $(OUT)

# ---- everything else -----------------------------------------------------------------------------------------------------

.PHONY: data help clean
data: $(DOMAINS)  ## the domains alone, as tokens

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s%s\n", $$1, $$2}'
	@echo
	@echo "Variables: PRESET=cpu|gpu|tiny|text|smol  SEED=0  INTO=folder  DATA=folder  PYTHON=python3"

clean:  ## delete prepared data and what was trained
	rm -rf out data/bin

.venv/ready: requirements.txt
	@$(PYTHON) -c "import sys; sys.version_info < (3, 10) and sys.exit('$(PYTHON) is Python %d.%d, but 3.10 or newer is needed:' \
	    ' name one, as in make PYTHON=python3.12' % sys.version_info[:2])"
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -r requirements.txt
	touch $@

-include tests/tests.mk              # test, test-all, torture, lint, bench
-include experiments/experiments.mk  # rivals, paper, grid, regimes
ifdef TEXTS
ifneq ($(filter paper grid regimes,$(MAKECMDGOALS)),)
$(error PRESET=$(PRESET) is for make and make rivals)
endif
include experiments/texts.mk
endif
-include course/course.mk            # handout, grade, autograder
-include course/check.mk             # check
