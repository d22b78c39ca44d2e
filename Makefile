# Branch-Train-MiX as a graph of files. `make help` lists the targets.
#
#   data -> seed.pt -> math.pt, code.pt, wiki.pt -> btx_mixed.pt -> btx.pt -> report.md
#
# The experts depend only on the seed, so `make -j3` trains them at the same time.

PRESET ?= cpu
SEED   ?= 0
PYTHON ?= python3
PY      = .venv/bin/python

# ---- the recipe, part 1: what each stage reads, as a mixture of domains in percent ---------------------------------
NAMES = math code wiki
# The seed is a generalist: it reads mainly general text and trivia.
SEED_DATA = general=38,trivia=48,math=9,code=2.5,wiki=2.5
# An expert reads its own domain ($* is its name) and, as in the paper, some of the seed's text, to forget less.
REPLAY      = general=4,trivia=1
EXPERT_DATA = $*=95,$(REPLAY)
# MoE finetuning reads all domains, so that routers learn which expert to use. Math, code and wiki have equal shares.
# Trivia that is re-read: (3 x 1100 x 1 % + 770 x 5 %) / (7000 x 48 %) = 2.1 % of the seed's. The paper has 2.2 %.
FINETUNE_DATA = general=14,trivia=5,math=27,code=27,wiki=27
# ---- the recipe, part 2, for a laptop. A preset may override any variable that is set above it or by ?= below it ----
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
DEVICE        ?= cpu                 # cuda for an NVIDIA GPU, mps for that of a Mac
OPTIONS        = --device $(DEVICE)  # of both scripts; DENSE_OPTIONS are the first's alone, MOE_OPTIONS the second's
EVALUATE       = --device $(DEVICE)  # of evaluate.py
TEXTS          =                     # files from which the data is prepared
$(if $(filter cpu gpu tiny pretrained,$(PRESET)),,$(error PRESET is cpu, gpu, tiny or pretrained, not $(PRESET)))
OUT    ?= $(INTO)/seed$(SEED)
ifneq ($(PRESET),cpu)
INTO   ?= out/$(PRESET)
DATA   ?= data/bin/$(PRESET)
REPORT ?= $(INTO)/results
include $(wildcard experiments/$(PRESET).mk experiments/$(PRESET)/recipe.mk)  # overrides this recipe
endif
INTO   ?= out
DATA   ?= data/bin
REPORT ?= experiments/paper
$(foreach name,PRESET SEED INTO DATA OUT,$(if $(word 2,$($(name))),$(error $(name) must not have a space: $($(name)))))
BTM    ?= seed,math,code,wiki
RUN      = $(OPTIONS) --data_dir $(DATA) --seed $(SEED) --out $@
TRAIN    = $(PY) train_expert.py $(DENSE_OPTIONS) $(RUN)
FINETUNE = $(PY) finetune_router.py $(MOE_OPTIONS) $(RUN) --init $<
EXPERTS  = $(NAMES:%=$(OUT)/%.pt)
PIPELINE = $(OUT)/seed.pt $(EXPERTS) $(OUT)/average.pt $(OUT)/btx_mixed.pt $(OUT)/btx.pt
# One thread each, so that weights do not depend on the number of cores. Two threads on busy cores are 1.8 times slower.
export OMP_NUM_THREADS ?= 1
# Let the C library keep the memory that tensors free: asking the system for it again takes 5 to 15 % of a step.
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
# ---- the pipeline --------------------------------------------------------------------------------------------------
.DEFAULT_GOAL = all
.PHONY: all demo page data help clean
all: $(OUT)/report.md  ## (default) the whole pipeline: data, experts, mix, finetune, evaluate
$(DATA)/ready: $(TEXTS) $(wildcard data/*.py) | .venv/ready
	$(PY) -m data.prepare $(PREPARE) --out $(DATA)
	touch $@

# SEED=0 starts from data/start/seed.pt, unless the seed's recipe is changed on the command line. Any other SEED trains
# its own, in six minutes. With SEED=0, this training gives the same weights on the processor that made data/start. On
# another, all weights may differ: experiments/untrained made seeds 15 to 19 again, and they score differently.
OF_SEED = PREPARE SHAPE D_FF SEED_DATA SEED_STEPS LR_SEED OPTIONS DENSE_OPTIONS
CHANGED = $(filter command environment,$(foreach name,$(OF_SEED),$(origin $(name))))  # empty if a user sets none of them
ifeq ($(strip $(PRESET) $(SEED) $(CHANGED)),cpu 0)
MAKE_SEED ?= $(call COPY,data/start/seed.pt)
endif
MAKE_SEED ?= $(TRAIN) --data $(SEED_DATA) $(SHAPE) --d_ff $(D_FF) --steps $(SEED_STEPS) --lr $(LR_SEED)
$(OUT)/seed.pt: $(DATA)/ready train_expert.py model.py
	$(MAKE_SEED)

# The experts print no progress bars, because several may train at the same time.
$(EXPERTS): $(OUT)/%.pt: $(OUT)/seed.pt
	TQDM_DISABLE=1 $(TRAIN) --init $< --data $(EXPERT_DATA) --steps $(EXPERT_STEPS) --lr $(LR_EXPERT)
$(OUT)/average.pt: $(OUT)/seed.pt $(EXPERTS) mix.py
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --average --out $@
$(OUT)/btx_mixed.pt: $(OUT)/seed.pt $(EXPERTS) mix.py
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --top_k 2 --seed $(SEED) --out $@
$(OUT)/btx.pt: $(OUT)/btx_mixed.pt finetune_router.py
	$(FINETUNE) --data $(FINETUNE_DATA) --steps $(FINETUNE_STEPS) --lr $(LR_BTX) --alpha $(ALPHA)
SCORED ?= $(PIPELINE)
$(OUT)/report.md: $(SCORED) evaluate.py
	$(PY) evaluate.py $(SCORED) --btm $(BTM) $(EVALUATE) --data_dir $(DATA) --out $(OUT)
# ---- a first result in two minutes: mix, finetune and compare four trained checkpoints -----------------------------
RECORDED = data/start/seed.pt $(NAMES:%=data/start/%.pt)
DEMO     = out/demo
demo: $(DATA)/ready  ## mix the checkpoints of data/start, finetune for a minute (with ALPHA=0.01), compare
	rm -f $(DEMO)/btx.progress
	$(PY) mix.py $(RECORDED) --out $(DEMO)/btx_mixed.pt
	$(PY) finetune_router.py --init $(DEMO)/btx_mixed.pt --data $(FINETUNE_DATA) --data_dir $(DATA) --steps 300 \
	  --lr $(LR_BTX) --alpha $(ALPHA) --device $(DEVICE) --out $(DEMO)/btx.pt
	$(PY) evaluate.py $(RECORDED) $(DEMO)/btx_mixed.pt $(DEMO)/btx.pt --data_dir $(DATA) --tasks 100 --device $(DEVICE) \
	  --out $(DEMO)
# ---- the article page/index.html, which mixes these checkpoints, and has the mixture finetuned for LENGTHS steps --
PAGE    = out/page
LENGTHS = 48 96 192 300 770
$(PAGE)/steps0.pt: | $(DATA)/ready; $(PY) mix.py $(RECORDED) --out $@
$(LENGTHS:%=$(PAGE)/steps%.pt): $(PAGE)/steps%.pt: $(PAGE)/steps0.pt $(DATA)/ready
	$(FINETUNE) --data $(FINETUNE_DATA) --steps $* --lr 3e-3 --alpha $(ALPHA) --train all-but-experts
page: $(LENGTHS:%=$(PAGE)/steps%.pt)  ## the article page/index.html, from data/start; two minutes
	$(PY) -m page.article $(RECORDED) $(PAGE)/steps0.pt $^ --data_dir $(DATA)
# ---- everything else -----------------------------------------------------------------------------------------------
data: $(DATA)/ready  ## only the domains, as tokens
help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s%s\n", $$1, $$2}'
	@echo "Variables: PRESET=cpu|gpu|tiny|pretrained DEVICE=cpu|cuda|mps SEED=0 INTO=folder DATA=folder PYTHON=python3"
	@echo "SEED=0 starts from data/start/seed.pt; any other SEED trains its own seed first."
	@echo "Give another recipe its own folder, since make keeps existing files: make INTO=out/alpha ALPHA=0.1"
clean:  ## delete the prepared data and all trained models
	rm -rf out data/bin
.venv/ready: requirements.txt
	@$(PYTHON) -c "import sys; sys.version_info < (3, 10) and sys.exit('Python 3.10 is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -r requirements.txt
	touch $@
# rivals, paper; test, test-all, lint; handout, grade, autograder; check (a handout contains only check.mk)
-include experiments/paper/recipe.mk tests/tests.mk course/course.mk course/check.mk
# A model file that exists is whole, so an interrupted make need not delete it. Only whole copies get their name.
COPY = mkdir -p $(@D) && cp $(1) $@.part && mv $@.part $@
.PRECIOUS: $(PIPELINE) $(RIVALS) $(TIMED) $(OTHERS:%=$(OUT)/%.pt)
