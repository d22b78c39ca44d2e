# Branch-Train-MiX as a graph of files; `make help` lists the targets.
#
#   data -> seed.pt -> math.pt, code.pt, wiki.pt -> btx_mixed.pt -> btx.pt -> report.md
#
# The experts depend on the seed alone, so `make -j3` trains them at the same time.

PRESET ?= cpu
SEED   ?= 0
PYTHON ?= python3
PY      = .venv/bin/python

# ---- the recipe, part 1: what each stage reads, as a mixture of domains in percent ---------------------------------
NAMES = math code wiki
# The seed is a generalist: it reads mainly general text and trivia.
SEED_DATA = general=38,trivia=48,math=9,code=2.5,wiki=2.5
# An expert reads its own domain ($* is its name) and, as in the paper, some of the seed's text, to forget less of it.
REPLAY      = general=4,trivia=1
EXPERT_DATA = $*=95,$(REPLAY)
# MoE finetuning reads all domains, so that the routers learn which expert to ask. Math, code and wiki have equal parts.
# Re-read trivia: (3 x 1100 x 1 % + 770 x 5 %) / (7000 x 48 %) = 2.1 % of the seed's. The paper re-reads 2.2 %.
FINETUNE_DATA = general=14,trivia=5,math=27,code=27,wiki=27

# ---- the recipe, part 2: shapes, steps and learning rates (for the rates see results/grid.md) ----------------------
# PRESET=cpu, for two laptop cores
PREPARE        = --level 1
SHAPE          = --n_layer 4 --n_head 4 --n_embd 64 --tie_weights
D_FF           = 256
SEED_STEPS     = 7000
EXPERT_STEPS   = 1100
FINETUNE_STEPS = 770
LR_SEED        = 5e-3
LR_EXPERT      = 1.5e-3
LR_BTX         = 1e-3
ALPHA          = 0.01
ifeq ($(PRESET),gpu)  # for one data-centre GPU
INTO          ?= out/gpu
DATA          ?= data/bin/level2
PREPARE        = --level 2 --train_tokens 10000000
OPTIONS        = --device cuda --batch_size 64
MOE_OPTIONS    = --fast
SHAPE          = --n_layer 8 --n_head 8 --n_embd 512 --block_size 256
D_FF           = 2048
SEED_STEPS     = 14000
EXPERT_STEPS   = 2200
FINETUNE_STEPS = 1540
LR_SEED        = 1e-3
LR_EXPERT      = 5e-4
LR_BTX         = 5e-4
else ifeq ($(PRESET),tiny)  # a rehearsal of every command, in seconds; its models learn nothing
INTO          ?= out/tiny
DATA          ?= data/bin/tiny
PREPARE        = --train_tokens 5000 --val_tokens 800 --tasks 4
OPTIONS        = --batch_size 2 --eval_windows 1
EVALUATE       = --tasks 4 --windows 2
SHAPE          = --n_layer 2 --n_head 2 --n_embd 16 --block_size 32 --tie_weights
D_FF           = 16
SEED_STEPS     = 4
EXPERT_STEPS   = 4
FINETUNE_STEPS = 8
LR_BTX         = 2e-3
else ifeq ($(PRESET),text)
include experiments/text.mk
else ifneq ($(PRESET),cpu)
$(error PRESET is cpu, gpu, tiny or text, not $(PRESET))
endif
INTO ?= out
DATA ?= data/bin
OUT  ?= $(INTO)/seed$(SEED)
BTM  ?= seed,math,code,wiki

RUN      = $(OPTIONS) --data_dir $(DATA) --seed $(SEED) --out $@
TRAIN    = $(PY) train_expert.py $(RUN)
FINETUNE = $(PY) finetune_router.py $(MOE_OPTIONS) $(RUN) --init $<
EXPERTS  = $(NAMES:%=$(OUT)/%.pt)
PIPELINE = $(OUT)/seed.pt $(EXPERTS) $(OUT)/soup.pt $(OUT)/btx_mixed.pt $(OUT)/btx.pt

# Under make -j several runs share the cores: one thread each is fastest, and lines are easier to read than bars.
ONE_THREAD = OMP_NUM_THREADS=1 TQDM_DISABLE=1
AT_ONCE    = $(if $(findstring jobserver,$(MAKEFLAGS)),$(ONE_THREAD))
# Threads wait by spinning. If they spin long, a busy program on the same cores makes training many times slower.
export GOMP_SPINCOUNT ?= 6000
# The C library keeps the memory that tensors free. Asking the system for it again costs a tenth of a training step.
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647
export MALLOC_MMAP_THRESHOLD_ ?= 33554432

# ---- the pipeline --------------------------------------------------------------------------------------------------
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
	$(PY) evaluate.py $(PIPELINE) --btm $(BTM) $(EVALUATE) --data_dir $(DATA) --out $(OUT)

# ---- a first result in two minutes: mix, finetune and compare four trained checkpoints -----------------------------
RECORDED   = data/start/seed.pt $(NAMES:%=data/start/%.pt)
DEMO       = out/demo
DEMO_STEPS = 300
.PHONY: demo
demo: $(DATA)/ready  ## mix the checkpoints of data/start, finetune for a minute (ALPHA=0.01), compare
	rm -f $(DEMO)/btx.state
	$(PY) mix.py $(RECORDED) --out $(DEMO)/btx_mixed.pt
	$(PY) finetune_router.py --data_dir $(DATA) --init $(DEMO)/btx_mixed.pt --data $(FINETUNE_DATA) --lr $(LR_BTX) \
	  --alpha $(ALPHA) --steps $(DEMO_STEPS) --out $(DEMO)/btx.pt
	$(PY) evaluate.py $(RECORDED) $(DEMO)/btx_mixed.pt $(DEMO)/btx.pt --data_dir $(DATA) --tasks 100 --out $(DEMO)

# ---- everything else -----------------------------------------------------------------------------------------------
data: $(DATA)/ready  ## the domains alone, as tokens
help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s%s\n", $$1, $$2}'
	@echo "Variables: PRESET=cpu|gpu|tiny|text  SEED=0  ALPHA=0.01  INTO=folder  DATA=folder  PYTHON=python3"
clean:  ## delete prepared data and what was trained
	rm -rf out data/bin
.venv/ready: requirements.txt
	@$(PYTHON) -c "import sys; sys.version_info < (3, 10) and sys.exit('Python 3.10 is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -r requirements.txt
	touch $@

# rivals, paper, grid; test, test-all, lint, bench; handout, grade, autograder; check (a handout contains only check.mk)
-include experiments/experiments.mk tests/tests.mk course/course.mk course/check.mk
