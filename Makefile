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
PY      = .venv/bin/python

# ---- the recipe, 1: what each stage reads, as a mixture of domains in percent ----------------------------------------

NAMES  = math code wiki
TESTED = general trivia $(NAMES) switch

# The seed is a generalist: mostly general text, and trivia, which nobody else is taught.
SEED_DATA = general=30,trivia=55,math=10,code=2.5,wiki=2.5
# An expert reads its own domain ($* is its name). As in the paper it also reads a little of the seed's text; an expert
# that read none would forget that wholly.
REPLAY      = general=2,trivia=3
EXPERT_DATA = $*=95,$(REPLAY)
# MoE finetuning reads all domains, so that the routers learn which expert to ask. The experts' have equal parts.
FINETUNE_DATA = general=6,trivia=13,math=27,code=27,wiki=27

# ---- the recipe, 2: shapes, steps and learning rates (chosen by `make grid`, see results/grid.md) --------------------

ALPHA = 0.01
ifeq ($(PRESET),cpu)         # for two laptop cores
INTO          ?= out
DATA          ?= data/bin
PREPARE        = --level 1
SHAPE          = --n_layer 4 --n_head 4 --n_embd 64
D_FF           = 256
SEED_STEPS     = 6500
EXPERT_STEPS   = 1100
FINETUNE_STEPS = 770
LR_SEED        = 5e-3
LR_EXPERT      = 1.5e-3
LR_BTX         = 1e-3
else ifeq ($(PRESET),gpu)    # for one data-centre GPU
INTO          ?= out/gpu
DATA          ?= data/bin/level2
PREPARE        = --level 2 --train_tokens 10000000
BATCH          = 64
TRAIN_OPTIONS  = --device cuda --batch_size $(BATCH)
MOE_OPTIONS    = --fast
SHAPE          = --n_layer 8 --n_head 8 --n_embd 512 --block_size 256
D_FF           = 2048
SEED_STEPS     = 13000
EXPERT_STEPS   = 2200
FINETUNE_STEPS = 1540
LR_SEED        = 1e-3
LR_EXPERT      = 5e-4
LR_BTX         = 5e-4
else ifeq ($(PRESET),tiny)   # a rehearsal: every command, in seconds
INTO          ?= out/tiny
DATA          ?= data/bin/tiny
PREPARE        = --train_tokens 5000 --val_tokens 800 --tasks 4
TRAIN_OPTIONS  = --batch_size 2 --eval_windows 1
EVALUATE       = --tasks 4 --windows 2
SHAPE          = --n_layer 2 --n_head 2 --n_embd 16 --block_size 32
D_FF           = 16
SEED_STEPS     = 4
EXPERT_STEPS   = 4
FINETUNE_STEPS = 8
LR_SEED        = 5e-3
LR_EXPERT      = 1.5e-3
LR_BTX         = 2e-3
else ifeq ($(PRESET),text)   # real text instead of the synthetic domains
include experiments/text.mk
else
$(error PRESET is cpu, gpu, tiny or text, not $(PRESET))
endif

OUT ?= $(INTO)/seed$(SEED)
RUN      = $(TRAIN_OPTIONS) --data_dir $(DATA) --seed $(SEED) --out $@
TRAIN    = $(PY) train_expert.py $(RUN)
FINETUNE = $(PY) finetune_router.py $(MOE_OPTIONS) $(RUN) --init $<
EXPERTS  = $(NAMES:%=$(OUT)/%.pt)
PIPELINE = $(OUT)/seed.pt $(EXPERTS) $(OUT)/soup.pt $(OUT)/btx_mixed.pt $(OUT)/btx.pt
space := $() $()
comma := ,
SEED_AND_EXPERTS = seed,$(subst $(space),$(comma),$(strip $(NAMES)))

# Under make -j several runs share the cores. One thread each is fastest then; and they print lines instead of bars.
ONE_THREAD = OMP_NUM_THREADS=1 TQDM_DISABLE=1
AT_ONCE    = $(if $(findstring jobserver,$(MAKEFLAGS)),$(ONE_THREAD))
# Threads wait by spinning. Briefly, so that another program on the same cores does not make training many times slower.
export GOMP_SPINCOUNT ?= 6000
# Memory that tensors free is kept, not asked for again: a tenth of a training step.
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647
export MALLOC_MMAP_THRESHOLD_ ?= 33554432

# ---- the pipeline ----------------------------------------------------------------------------------------------------

.PHONY: all data help clean
all: $(OUT)/report.md  ## (default) the whole pipeline: data, seed, experts, mix, finetune, evaluate
	@echo "The report is $(OUT)/report.md; its figures are in $(OUT)/figures."

$(DATA)/ready: $(TEXTS) $(wildcard data/*.py) | .venv/ready
	$(PY) -m data.prepare $(PREPARE) --out $(DATA)
	touch $@

$(OUT)/seed.pt: $(DATA)/ready train_expert.py model.py
	$(TRAIN) --data $(SEED_DATA) $(SHAPE) --d_ff $(D_FF) --steps $(SEED_STEPS) --lr $(LR_SEED)

$(EXPERTS): $(OUT)/%.pt: $(OUT)/seed.pt
	$(AT_ONCE) $(TRAIN) --init $< --data $(EXPERT_DATA) --steps $(EXPERT_STEPS) --lr $(LR_EXPERT)

$(OUT)/soup.pt: $(OUT)/seed.pt $(EXPERTS) mix.py
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --soup --out $@

$(OUT)/btx_mixed.pt: $(OUT)/seed.pt $(EXPERTS) mix.py
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --top_k 2 --seed $(SEED) --out $@

$(OUT)/btx.pt: $(OUT)/btx_mixed.pt finetune_router.py
	$(FINETUNE) --data $(FINETUNE_DATA) --steps $(FINETUNE_STEPS) --lr $(LR_BTX) --alpha $(ALPHA)

$(OUT)/report.md: $(PIPELINE) evaluate.py
	$(PY) evaluate.py $(PIPELINE) --btm $(SEED_AND_EXPERTS) $(EVALUATE) --data_dir $(DATA) --out $(OUT)

# ---- everything else -------------------------------------------------------------------------------------------------

data: $(DATA)/ready  ## the domains alone, as tokens

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s%s\n", $$1, $$2}'
	@echo
	@echo "Variables: PRESET=cpu|gpu|tiny|text  SEED=0  INTO=folder  DATA=folder  PYTHON=python3"

clean:  ## delete prepared data and what was trained
	rm -rf out data/bin

.venv/ready: requirements.txt
	@$(PYTHON) -c "import sys; sys.version_info < (3, 10) and sys.exit('$(PYTHON) is too old: Python 3.10 or newer is' \
	    ' needed; name one, as in make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -r requirements.txt
	touch $@

-include experiments/experiments.mk  # rivals, paper, grid
-include tests/tests.mk              # test, test-all, lint, bench
-include course/course.mk            # handout, grade, autograder
-include course/check.mk             # check
