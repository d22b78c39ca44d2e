# Branch-Train-MiX as a graph of files; `make help` lists the targets.
#
#   data -> seed.pt -> math.pt, code.pt, wiki.pt -> btx_mixed.pt -> btx.pt -> report.md
#
# The experts depend on the seed alone, so `make -j3` trains them at the same time.

PRESET ?= cpu
SEED   ?= 0
SEEDS  ?= 3
PYTHON ?= python3

# ---- the recipes: one for two laptop cores, one for a data-centre GPU ----------------------------------------------------

ifeq ($(PRESET),cpu)
OUT      ?= out
DATA     ?= data/bin
PREPARE   = --level 1
SHAPE     =
SEED_RUN  = --data general=0.84,math=0.08,code=0.02,wiki=0.06 --steps 3000 --lr 3e-3
BRANCH    = --steps 1000 --lr 1.5e-3
FINETUNE  = --data general=0.25,math=0.25,code=0.25,wiki=0.25 --steps 1500 --lr 2e-3 --alpha 0.01
else ifeq ($(PRESET),gpu)
OUT      ?= out/gpu
DATA     ?= data/bin/level2
PREPARE   = --level 2 --train_tokens 10000000
SHAPE     = --n_layer 8 --n_head 8 --n_embd 512 --d_ff 1408 --block_size 256
SEED_RUN  = --data general=0.84,math=0.08,code=0.02,wiki=0.06 --steps 5000 --batch_size 64 --lr 1e-3
BRANCH    = --steps 2500 --batch_size 64 --lr 5e-4
FINETUNE  = --data general=0.25,math=0.25,code=0.25,wiki=0.25 --steps 2500 --batch_size 64 --lr 5e-4 --alpha 0.01
else
$(error PRESET is cpu or gpu, not $(PRESET))
endif

PY = .venv/bin/python
EXPERTS = $(OUT)/math.pt $(OUT)/code.pt $(OUT)/wiki.pt
LIBRARY = model.py checkpoint.py settings.py data/loader.py
# under make -j the experts share the cores, and a thread each is best: more would wait for one another
ONE_THREAD = $(if $(findstring jobserver,$(MAKEFLAGS)),OMP_NUM_THREADS=1)
# GNU OpenMP's threads wait for each other by spinning, which makes everything ten times slower as soon as another program
# wants a core; spinning only briefly costs nothing and keeps training usable then
export GOMP_SPINCOUNT ?= 1000

# ---- the pipeline --------------------------------------------------------------------------------------------------------

.PHONY: all
all: $(OUT)/report.md  ## (default) the whole pipeline: data, seed, experts, mix, finetune, evaluate
	@echo "The report is $(OUT)/report.md; its figures are in $(OUT)/figures."

$(DATA)/switch/meta.json: data/prepare.py data/task.py data/general.py data/math.py data/code.py data/wiki.py data/btx.tiktoken | .venv/ready
	$(PY) -m data.prepare $(PREPARE) --out $(DATA)

$(OUT)/seed.pt: $(DATA)/switch/meta.json train_expert.py $(LIBRARY)
	$(PY) train_expert.py $(SEED_RUN) $(SHAPE) --data_dir $(DATA) --seed $(SEED) --resume --out $@

$(EXPERTS): $(OUT)/%.pt: $(OUT)/seed.pt
	$(ONE_THREAD) $(PY) train_expert.py --init $(OUT)/seed.pt --data $*=0.95,general=0.05 $(BRANCH) --data_dir $(DATA) --seed $(SEED) --resume --out $@

$(OUT)/soup.pt: $(OUT)/seed.pt $(EXPERTS) mix.py
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --soup --out $@

$(OUT)/btx_mixed.pt: $(OUT)/seed.pt $(EXPERTS) mix.py
	$(PY) mix.py $(OUT)/seed.pt $(EXPERTS) --top_k 2 --seed $(SEED) --out $@

$(OUT)/btx.pt: $(OUT)/btx_mixed.pt finetune_router.py
	$(PY) finetune_router.py --init $(OUT)/btx_mixed.pt $(FINETUNE) --data_dir $(DATA) --seed $(SEED) --resume --out $@

$(OUT)/report.md: $(OUT)/soup.pt $(OUT)/btx.pt evaluate.py btm.py figures.py sandbox.py
	$(PY) evaluate.py $(OUT)/seed.pt $(EXPERTS) $(OUT)/soup.pt $(OUT)/btx_mixed.pt $(OUT)/btx.pt --btm seed,math,code,wiki --data_dir $(DATA) --out $(OUT)

# ---- everything else -----------------------------------------------------------------------------------------------------

RUNS = $(shell seq 0 $$(( $(SEEDS) - 1 )))

.PHONY: results test lint help clean
results: .venv/ready  ## the pipeline for SEEDS seeds, and results/demo/: every run's numbers, mean and spread
	for s in $(RUNS); do $(MAKE) SEED=$$s OUT=out/seed$$s || exit 1; done
	$(PY) summarise.py $(RUNS:%=out/seed%) --out results/demo

# paper.mk's graph once for each seed, all at the same time; SIZE=tiny is a rehearsal of seconds
PAPER      = out/paper
PAPER_DATA = data/bin/paper
REPORT     = results
PAPER_MAKE = $(MAKE) -f paper.mk D=$(PAPER_DATA)

.PHONY: paper paper-data $(RUNS:%=paper-seed%)
paper: $(RUNS:%=paper-seed%)  ## every experiment of the paper for SEEDS seeds, and results/: its tables and figures
	$(PY) paper.py $(RUNS:%=$(PAPER)/seed%) --data_dir $(PAPER_DATA) --out $(REPORT)

paper-data: .venv/ready
	$(PAPER_MAKE) $(PAPER_DATA)/switch/meta.json

$(RUNS:%=paper-seed%): paper-seed%: paper-data
	$(PAPER_MAKE) SEED=$* O=$(PAPER)/seed$*

# the learning rates, one after the other: the branches' with the finetuning at the recipe's rate, then everything else's
RATES  = 1e-3 2e-3 4e-3
SHARED = seed math code wiki
.PHONY: grid $(RATES:%=grid-%) $(RATES:%=grid-branch-%)
grid: $(RATES:%=grid-%) $(RATES:%=grid-branch-%)  ## several learning rates for the branches, for BTX and for the baselines
	$(PY) paper.py --grid $(RATES:%=$(PAPER)/grid/%) $(RATES:%=$(PAPER)/grid/branch-%) --out $(REPORT)

grid-shared: paper-data
	$(PAPER_MAKE) O=$(PAPER)/seed0 $(SHARED:%=$(PAPER)/seed0/%.pt)
	mkdir -p $(foreach r,$(RATES),$(PAPER)/grid/$r $(PAPER)/grid/branch-$r)
	for r in $(RATES); do ln -f $(SHARED:%=$(PAPER)/seed0/%.pt) $(PAPER)/grid/$$r && ln -f $(PAPER)/seed0/seed.pt $(PAPER)/grid/branch-$$r; done
$(RATES:%=grid-%): grid-%: grid-shared
	$(PAPER_MAKE) O=$(PAPER)/grid/$* LR_LARGE=$* LR_BTX=$* LR_DENSE=$* LR_SU=$* LR_switch=$* LR_sample=$* LR_soft=$* \
	    WANT="large dense_dm su_dm btx top2_short soft_short sample_short switch_short" $(PAPER)/grid/$*/some/results.json
$(RATES:%=grid-branch-%): grid-branch-%: grid-shared
	$(PAPER_MAKE) O=$(PAPER)/grid/branch-$* LR_BRANCH=$* WANT="math code wiki btx" $(PAPER)/grid/branch-$*/some/results.json

# when does branching pay? small runs over the seed's age (steps), the branches' learning rate, and the facts to be known by heart
AGES       = 1000 4000
BRANCH_LR  = 1e-3 4e-3
FACT_LOADS = 100 400
REGIMES    = $(foreach f,$(FACT_LOADS),$(foreach s,$(AGES),$f-$s))
CELLS      = $(foreach r,$(REGIMES),$(foreach l,$(BRANCH_LR),$r_$l))
word_of    = $(word $2,$(subst -, ,$1))
REGIME     = $(MAKE) -f paper.mk FACTS=$(call word_of,$1,1) D=data/bin/facts$(call word_of,$1,1) S=$(call word_of,$1,2) B=1000 F=1250
.PHONY: regimes
regimes: $(CELLS:%=out/regimes/%/some/results.json)  ## BTX against Dense (DM) and sparse upcycling in different regimes
	$(PY) regimes.py $(CELLS:%=out/regimes/%) --out results

data/bin/facts%/switch/meta.json: | .venv/ready
	$(PY) -m data.prepare --facts $* --out data/bin/facts$*
define regime
out/regimes/$1/su_dm.pt: | data/bin/facts$(call word_of,$1,1)/switch/meta.json  # what does not depend on the branches' rate
	$$(call REGIME,$1) O=out/regimes/$1 out/regimes/$1/dense_dm.pt out/regimes/$1/su_dm.pt
endef
$(foreach r,$(REGIMES),$(eval $(call regime,$r)))
define cell
out/regimes/$1_$2/some/results.json: out/regimes/$1/su_dm.pt
	mkdir -p out/regimes/$1_$2 && ln -f out/regimes/$1/seed.pt out/regimes/$1/dense_dm.pt out/regimes/$1/su_dm.pt out/regimes/$1_$2
	$$(call REGIME,$1) O=out/regimes/$1_$2 LR_BRANCH=$2 out/regimes/$1_$2/some/results.json
endef
$(foreach r,$(REGIMES),$(foreach l,$(BRANCH_LR),$(eval $(call cell,$r,$l))))

test: .venv/dev  ## the tests, under three minutes
	$(PY) -m pytest

lint: .venv/dev  ## ruff
	$(PY) -m ruff check .

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-10s%s\n", $$1, $$2}'
	@echo
	@echo "Variables: PRESET=cpu|gpu  SEED=0  OUT=folder  DATA=folder  PYTHON=python3  SEEDS=3 (for results, paper)"

clean:  ## delete prepared data and what was trained
	rm -rf out data/bin

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -r requirements.txt
	touch $@

.venv/dev: requirements-dev.txt .venv/ready
	.venv/bin/pip install -q -r requirements-dev.txt
	touch $@
