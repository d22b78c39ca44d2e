# The other models of the paper's tables, from the pipeline's seed and experts: `make rivals`, `make paper`, `make grid`
# The models' names are those of the report; paper.md says which of them stand in which table.
LR_LARGE ?= 5e-3
LR_DENSE ?= 1e-3
LR_SU    ?= 5e-4
# what the experts read, all of them together: the first phase of the data-matched baselines
PHASE_1_DATA ?= $(REPLAY),math=31.7,code=31.7,wiki=31.6
PHASE_1_STEPS := $(shell expr $(EXPERT_STEPS) \* 3)
WHOLE   := $(FINETUNE_STEPS)
QUARTER := $(shell expr $(WHOLE) / 4)
HALF    := $(shell expr $(WHOLE) / 2)
TWICE   := $(shell expr $(WHOLE) \* 2)
# MoE finetuning, $(call TUNE,steps,rate,alpha)
TUNE = $(FINETUNE) --data $(FINETUNE_DATA) --steps $1 --lr $2 --alpha $3

# ---- the baselines -------------------------------------------------------------------------------------------------
# in the place of Llama-2 13B: from scratch, on the seed's data; with a feed-forward twice as wide, it has Top-2's active parameters
$(OUT)/large.pt: $(DATA)/ready train_expert.py model.py
	$(TRAIN) --data $(SEED_DATA) $(SHAPE) --d_ff $(shell expr 2 \* $(D_FF)) --steps $(SEED_STEPS) --lr $(LR_LARGE)
# Dense (DM): the experts' data, then the mixture of MoE finetuning
$(OUT)/dense_dm_1.pt: $(OUT)/seed.pt
	$(TRAIN) --init $< --data $(PHASE_1_DATA) --steps $(PHASE_1_STEPS) --lr $(LR_DENSE)
$(OUT)/dense_dm.pt: $(OUT)/dense_dm_1.pt
	$(TRAIN) --init $< --data $(FINETUNE_DATA) --steps $(WHOLE) --lr $(LR_DENSE)
# sparse upcycling: four copies of the seed; (DM) the same two phases, (CM) the last mixture alone, for what BTX cost
$(OUT)/su_mixed.pt: $(OUT)/seed.pt; $(PY) mix.py $< $< $< $< --seed $(SEED) --out $@
$(OUT)/su_dm_1.pt: $(OUT)/su_mixed.pt
	$(FINETUNE) --data $(PHASE_1_DATA) --steps $(PHASE_1_STEPS) --lr $(LR_SU) --alpha $(ALPHA)
$(OUT)/su_dm.pt: $(OUT)/su_dm_1.pt; $(call TUNE,$(WHOLE),$(LR_SU),$(ALPHA))
SU_CM  = flops paper
BUDGET = $(PY) -m experiments.budget $(OUT)/su_dm.pt --like $(OUT)/btx.pt --since $(OUT)/seed.pt --by $*
$(SU_CM:%=$(OUT)/su_cm_%.pt): $(OUT)/su_cm_%.pt: $(OUT)/su_mixed.pt $(OUT)/su_dm.pt $(OUT)/btx.pt
	$(call TUNE,$$($(BUDGET)),$(LR_SU),$(ALPHA))

# ---- Branch-Train-MiX, mixed in one way or another, finetuned for a quarter, a half, the whole, and longer ---------
MIX_switch    = --routing switch
MIX_sample    = --routing sample
MIX_soft      = --routing soft
MIX_blend     = --blend
MIX_split2of8 = --split 2 --top_k 2
MIX_split4of8 = --split 2 --top_k 4
MIX_hidden    = --router_data general,math,code,wiki --data_dir $(DATA)
MIX_ridge     = $(MIX_hidden) --ridge
KINDS  = switch sample soft blend split2of8 split4of8
STARTS = hidden ridge
$(patsubst %,$(OUT)/%_mixed.pt,$(KINDS) $(STARTS)): $(OUT)/%_mixed.pt: $(OUT)/seed.pt $(EXPERTS)
	$(PY) mix.py $^ $(MIX_$*) --seed $(SEED) --out $@

# each model on one line: its name, the model it starts from; steps, rate and alpha of its finetuning
$(KINDS:%=$(OUT)/%_short.pt): $(OUT)/%_short.pt: $(OUT)/%_mixed.pt; $(call TUNE,$(QUARTER),$(LR_BTX),0)
$(OUT)/sample_medium.pt $(OUT)/soft_medium.pt: $(OUT)/%_medium.pt: $(OUT)/%_mixed.pt; $(call TUNE,$(HALF),$(LR_BTX),0)
$(OUT)/top2_short.pt:    $(OUT)/btx_mixed.pt;    $(call TUNE,$(QUARTER),$(LR_BTX),0)
$(OUT)/top2_medium.pt:   $(OUT)/btx_mixed.pt;    $(call TUNE,$(HALF),$(LR_BTX),0)
$(OUT)/lb_short.pt:      $(OUT)/btx_mixed.pt;    $(call TUNE,$(QUARTER),$(LR_BTX),0.01)
$(OUT)/frozen_short.pt:  $(OUT)/btx_mixed.pt;    $(call TUNE,$(QUARTER),$(LR_BTX),0) --train all-but-experts
$(OUT)/btx_nolb.pt:      $(OUT)/btx_mixed.pt;    $(call TUNE,$(WHOLE),$(LR_BTX),0)
$(STARTS:%=$(OUT)/btx_%.pt): $(OUT)/btx_%.pt: $(OUT)/%_mixed.pt; $(call TUNE,$(WHOLE),$(LR_BTX),$(ALPHA))
# twice the tokens, as in the paper; not the same compute: here one layer of four is soft, there one of 32
$(OUT)/btx_sample.pt:    $(OUT)/sample_mixed.pt; $(call TUNE,$(TWICE),$(LR_BTX),$(ALPHA))
# controls: BTX of the three experts alone, without the seed; and the average of all weights, finetuned for as long
$(OUT)/noseed_mixed.pt: $(EXPERTS); $(PY) mix.py $^ --seed $(SEED) --out $@
$(OUT)/btx_noseed.pt:    $(OUT)/noseed_mixed.pt; $(call TUNE,$(WHOLE),$(LR_BTX),$(ALPHA))
$(OUT)/soup_tuned.pt:    $(OUT)/soup.pt
	$(TRAIN) --init $< --data $(FINETUNE_DATA) --steps $(WHOLE) --lr $(LR_BTX)
# an expert that comes later: BTX of seed, math and code, finetuned without wiki's text; then the wiki expert is added
$(OUT)/three_mixed.pt: $(OUT)/seed.pt $(OUT)/math.pt $(OUT)/code.pt; $(PY) mix.py $^ --seed $(SEED) --out $@
$(OUT)/three.pt: FINETUNE_DATA = general=14,trivia=5,math=27,code=27
$(OUT)/three.pt:         $(OUT)/three_mixed.pt;  $(call TUNE,$(WHOLE),$(LR_BTX),$(ALPHA))
$(OUT)/later_mixed.pt: $(OUT)/three.pt $(OUT)/wiki.pt; $(PY) mix.py $^ --seed $(SEED) --out $@
$(OUT)/later_short.pt:   $(OUT)/later_mixed.pt;  $(call TUNE,$(QUARTER),$(LR_BTX),$(ALPHA))
$(OUT)/later.pt:         $(OUT)/later_mixed.pt;  $(call TUNE,$(WHOLE),$(LR_BTX),$(ALPHA))

# experts that train their feed-forwards alone, so that nothing needs to be averaged
FF_EXPERTS = $(NAMES:%=$(OUT)/ff/%.pt)
$(FF_EXPERTS): $(OUT)/ff/%.pt: $(OUT)/seed.pt
	$(TRAIN) --init $< --data $(EXPERT_DATA) --steps $(EXPERT_STEPS) --lr $(LR_EXPERT) --train feed-forwards
$(OUT)/ff_mixed.pt: $(OUT)/seed.pt $(FF_EXPERTS); $(PY) mix.py $^ --seed $(SEED) --out $@
$(OUT)/btx_ff.pt:        $(OUT)/ff_mixed.pt;     $(call TUNE,$(WHOLE),$(LR_BTX),$(ALPHA))

# ---- where averaging costs: branches with other epsilons of AdamW than the recipe's ---------------------------------
EPS_RUNS = $(addprefix $(OUT)/eps-,1e-8 1e-4)
$(EPS_RUNS:%=%/ready): $(OUT)/eps-%/ready: $(OUT)/seed.pt
	mkdir -p $(@D) && cp -p $< $(@D)
	+$(AGAIN) DATA=$(DATA) SEED=$(SEED) OUT=$(@D) OPTIONS="$(OPTIONS) --eps $*" $(NAMES:%=$(@D)/%.pt)
	touch $@
$(OUT)/averaging.json: $(EXPERTS) $(EPS_RUNS:%=%/ready)
	$(PY) -m experiments.averaging eps-1e-5=$(OUT) $(foreach run,$(EPS_RUNS),$(notdir $(run))=$(run)) \
	    --data_dir $(DATA) --out $@

# ---- scores --------------------------------------------------------------------------------------------------------
RIVALS = $(PIPELINE) $(patsubst %,$(OUT)/%.pt,dense_dm_1 dense_dm su_dm_1 su_dm)
OTHERS = large $(SU_CM:%=su_cm_%) btx_nolb btx_sample $(KINDS:%=%_short) top2_short lb_short frozen_short \
         sample_medium soft_medium top2_medium btx_noseed soup_tuned $(STARTS:%=%_mixed) $(STARTS:%=btx_%)
BEYOND = ff_mixed btx_ff three later_mixed later_short later
SCORE  = $(PY) evaluate.py $(EVALUATE) --data_dir $(DATA) --out $(@D)
rivals: $(OUT)/rivals/report.md  ## the pipeline, and Dense (DM) and sparse upcycling (DM), trained on the same data
$(OUT)/rivals/report.md: $(RIVALS) evaluate.py; $(SCORE) $(RIVALS) --btm $(BTM)
$(OUT)/paper/results.json: $(OUT)/seed.pt $(EXPERTS) $(OTHERS:%=$(OUT)/%.pt)
	$(SCORE) $^ --btm $(BTM) --btm_methods tfidf:1,tfidf:2,bayes:2 --no-figures
$(OUT)/beyond/results.json: $(BEYOND:%=$(OUT)/%.pt); $(SCORE) $^ --no-figures
$(OUT)/drawn/results.json: $(OUT)/btx_sample.pt; $(SCORE) $^ --hard_sampling --no-figures
$(OUT)/mean_gate/results.json: $(OUT)/btx_sample.pt; $(SCORE) $^ --mean_gate --no-figures

# ---- several seeds: the graph above once for each, one thread each, as many at a time as -j says -------------------
# SEEDS train the main rows. The first five also have Tables 3 to 5, three of these what is beyond the paper.
SEEDS        ?= 10 11 12 13 14 15 16 17 18 19
PAPER_SEEDS  ?= $(wordlist 1,5,$(SEEDS))
BEYOND_SEEDS ?= $(wordlist 3,5,$(SEEDS))
REPORT ?= $(if $(filter cpu,$(PRESET)),results,$(INTO)/results)
AGAIN   = $(ONE_THREAD) $(MAKE) PRESET=$(PRESET)
RUNS    = $(SEEDS:%=$(REPORT)/seed%.json)
WANT_OF = $(OUT)/rivals/report.md \
          $(if $(filter $(SEED),$(PAPER_SEEDS)),$(patsubst %,$(OUT)/%/results.json,paper drawn mean_gate)) \
          $(if $(filter $(SEED),$(BEYOND_SEEDS)),$(OUT)/beyond/results.json $(OUT)/averaging.json)
paper: $(RUNS)  ## the paper's experiments for all SEEDS; REPORT=results has those that are done
	$(PY) -m experiments.paper $^ --out $(REPORT)
one-run: $(WANT_OF)
$(RUNS): $(REPORT)/seed%.json: | $(DATA)/ready
	+$(AGAIN) INTO=$(INTO) DATA=$(DATA) SEED=$* one-run
	$(PY) -m experiments.paper --collect $(INTO)/seed$* --data_dir $(DATA) --out $@

# ---- the learning rates: on another data seed and training seed than the report's ----------------------------------
GRID    = $(INTO)/grid
ON_GRID = $(AGAIN) SEED=100 DATA=$(DATA)/grid PREPARE="$(PREPARE) --seed 1"
SHARED  = $(patsubst %,$(GRID)/shared/%.pt,seed $(NAMES))
AT_SEED  ?= seed-2e-3 seed-3e-3 seed-5e-3 seed-8e-3
AT_BRANCH ?= branch-1e-3 branch-1.5e-3 branch-2.25e-3
RATES    ?= 2.5e-4 5e-4 1e-3 2e-3
AT_LARGE  = large-3e-3 large-5e-3 large-1e-2
POINTS    = $(AT_SEED) $(AT_BRANCH) $(RATES) $(AT_LARGE)
.PHONY: rivals paper one-run text grid grid-data grid-shared $(POINTS:%=grid-%)
grid: $(POINTS:%=grid-%)  ## the learning rates of BTX and of its rivals, on other data and tasks than the report's
	$(PY) -m experiments.grid $(POINTS:%=$(GRID)/%) --out $(REPORT)
grid-data: | $(TEXTS)
	+$(ON_GRID) data
grid-shared: grid-data
	+$(ON_GRID) OUT=$(GRID)/shared $(SHARED)
$(AT_SEED:%=grid-%): grid-seed-%: grid-data
	+$(ON_GRID) OUT=$(GRID)/seed-$* LR_SEED=$* WANT=seed $(GRID)/seed-$*/grid/results.json
$(RATES:%=grid-%): grid-%: grid-shared
	mkdir -p $(GRID)/$* && cp -p $(SHARED) $(GRID)/$*
	+$(ON_GRID) OUT=$(GRID)/$* LR_BTX=$* LR_DENSE=$* LR_SU=$* WANT="dense_dm su_dm btx" $(GRID)/$*/grid/results.json
$(AT_BRANCH:%=grid-%): grid-branch-%: grid-shared
	mkdir -p $(GRID)/branch-$* && cp -p $(GRID)/shared/seed.pt $(GRID)/branch-$*
	+$(ON_GRID) OUT=$(GRID)/branch-$* LR_EXPERT=$* WANT="seed $(NAMES) soup" $(GRID)/branch-$*/grid/results.json
$(AT_LARGE:%=grid-%): grid-large-%: grid-data
	+$(ON_GRID) OUT=$(GRID)/large-$* LR_LARGE=$* SEED_STEPS=$(shell expr $(SEED_STEPS) / 2) WANT=large \
	    $(GRID)/large-$*/grid/results.json
$(OUT)/grid/results.json: $(WANT:%=$(OUT)/%.pt); $(SCORE) $^ --no-figures

# ---- real text: see text.mk ----------------------------------------------------------------------------------------
ifeq ($(PRESET),text)
TEXT_RUNS = $(SEEDS:%=$(INTO)/seed%/rivals/results.json)
text: $(TEXT_RUNS) $(patsubst %,grid-%,$(AT_SEED) $(AT_BRANCH) $(RATES))
	$(PY) -m experiments.text_report $(SEEDS:%=$(INTO)/seed%) --grid $(GRID)
$(TEXT_RUNS): $(INTO)/seed%/rivals/results.json: | $(DATA)/ready
	+$(AGAIN) SEED=$* rivals
else
text:  ## BTX and its rivals on real text, three seeds and a grid of rates; needs apt
	+$(MAKE) PRESET=text text
endif
