# Every other model of the paper's tables, from the pipeline's seed and branches: `make rivals`, `make paper`, `make grid`,
# `make regimes`. The models' names are those of the report; paper.py says which of them stand in which table.
#
#   seed -> dense_dm_1 -> dense_dm;  su_mixed -> su_dm_1 -> su_dm;  su_mixed -> su_cm_*   the data- and compute-matched baselines
#   seed, math, code, wiki -> *_mixed -> *_short, *_medium, btx_nolb, btx_sample, ...       BTX, by routing method and so on

# the rivals' rates, of `make grid` like the others
LR_LARGE ?= 1e-2
LR_DENSE ?= 1e-3
LR_SU    ?= 1e-3
# the data of all three branches together
BRANCHES ?= $(REPLAY),math=31.7,code=31.7,wiki=31.6
quarter := $(shell expr $(F) / 4)
half    := $(shell expr $(F) / 2)
double  := $(shell expr $(F) \* 2)
fourfold := $(shell expr $(F) \* 4)
phase_1 := $(shell expr $(B) \* 3)
# finetuning of a mixed model, $(call TUNE,steps,rate,alpha)
TUNE = $(FINETUNE) --data $(MIXTURE) --steps $1 --lr $2 --alpha $3

# ---- the baselines ---------------------------------------------------------------------------------------------------------

# Llama-2 13B's part: from scratch, on the seed's data, with the active parameters of Top-2 (a feed-forward twice as wide)
$(OUT)/large.pt: $(DOMAINS) train_expert.py $(LIBRARY)
	$(TRAIN) --data $(SEED_DATA) $(SHAPE) --d_ff $$((2 * $(D_FF))) --steps $(S) --lr $(LR_LARGE)

# Dense (DM): the data of all branches, then the mixture of MoE finetuning
$(OUT)/dense_dm_1.pt: $(OUT)/seed.pt
	$(TRAIN) --init $< --data $(BRANCHES) --steps $(phase_1) --lr $(LR_DENSE)
$(OUT)/dense_dm.pt: $(OUT)/dense_dm_1.pt
	$(TRAIN) --init $< --data $(MIXTURE) --steps $(F) --lr $(LR_DENSE)

# sparse upcycling: N copies of the seed; (DM) the same two phases, (CM) the mixture alone, for what BTX cost
$(OUT)/su_mixed.pt: $(OUT)/seed.pt
	$(PY) mix.py $< $< $< $< --seed $(SEED) --out $@
$(OUT)/su_dm_1.pt: $(OUT)/su_mixed.pt
	$(FINETUNE) --data $(BRANCHES) --steps $(phase_1) --lr $(LR_SU) --alpha $(ALPHA)
$(OUT)/su_dm.pt: $(OUT)/su_dm_1.pt
	$(call TUNE,$(F),$(LR_SU),$(ALPHA))
SU_CM = flops time elapsed paper
$(SU_CM:%=$(OUT)/su_cm_%.pt): $(OUT)/su_cm_%.pt: $(OUT)/su_mixed.pt $(OUT)/su_dm.pt $(OUT)/btx.pt
	$(call TUNE,$$($(PY) -m experiments.budget $(OUT)/su_dm.pt --like $(OUT)/btx.pt --since $(OUT)/seed.pt --by $*),\
	    $(LR_SU),$(ALPHA))

# ---- Branch-Train-MiX, mixed in one way or another, finetuned for a short, a medium, the full length and longer -------------

MIX_switch    = --routing switch
MIX_sample    = --routing sample
MIX_soft      = --routing soft
MIX_blend     = --blend
MIX_split2of8 = --split 2 --top_k 2
MIX_split4of8 = --split 2 --top_k 4
MIX_hidden    = --router_data general,math,code,wiki --data_dir $(DATA)
KINDS = switch sample soft blend split2of8 split4of8 hidden
$(KINDS:%=$(OUT)/%_mixed.pt): $(OUT)/%_mixed.pt: $(OUT)/seed.pt $(EXPERTS)
	$(PY) mix.py $^ $(MIX_$*) --seed $(SEED) --out $@

SHORT = $(filter-out hidden,$(KINDS))
$(SHORT:%=$(OUT)/%_short.pt): $(OUT)/%_short.pt: $(OUT)/%_mixed.pt
	$(call TUNE,$(quarter),$(LR_BTX),0)
$(OUT)/sample_medium.pt $(OUT)/soft_medium.pt: $(OUT)/%_medium.pt: $(OUT)/%_mixed.pt
	$(call TUNE,$(half),$(LR_BTX),0)
# twice the tokens, as in the paper; not its equal compute, since one soft layer of four weighs more than one of 32
$(OUT)/btx_sample.pt: $(OUT)/sample_mixed.pt
	$(call TUNE,$(double),$(LR_BTX),$(ALPHA))
$(OUT)/btx_hidden.pt: $(OUT)/hidden_mixed.pt
	$(call TUNE,$(F),$(LR_BTX),$(ALPHA))

$(OUT)/top2_short.pt: $(OUT)/btx_mixed.pt
	$(call TUNE,$(quarter),$(LR_BTX),0)
$(OUT)/top2_medium.pt: $(OUT)/btx_mixed.pt
	$(call TUNE,$(half),$(LR_BTX),0)
$(OUT)/btx_nolb.pt: $(OUT)/btx_mixed.pt
	$(call TUNE,$(F),$(LR_BTX),0)
$(OUT)/lb_short.pt: $(OUT)/btx_mixed.pt
	$(call TUNE,$(quarter),$(LR_BTX),0.01)
$(OUT)/frozen_short.pt: $(OUT)/btx_mixed.pt
	$(call TUNE,$(quarter),$(LR_BTX),0) --train all-but-experts

# ---- beyond the paper: longer finetuning, an expert that comes later, branches that train their feed-forwards alone ---------

$(OUT)/btx_x2.pt: $(OUT)/btx_mixed.pt
	$(call TUNE,$(double),$(LR_BTX),$(ALPHA))
$(OUT)/btx_x4.pt: $(OUT)/btx_mixed.pt
	$(call TUNE,$(fourfold),$(LR_BTX),$(ALPHA))
$(OUT)/su_x2.pt: $(OUT)/su_dm_1.pt
	$(call TUNE,$(double),$(LR_SU),$(ALPHA))
$(OUT)/su_x4.pt: $(OUT)/su_dm_1.pt
	$(call TUNE,$(fourfold),$(LR_SU),$(ALPHA))

# BTX of seed, math and code, finetuned without wiki's text; then the wiki expert is added and all is finetuned again
$(OUT)/three_mixed.pt: $(OUT)/seed.pt $(OUT)/math.pt $(OUT)/code.pt
	$(PY) mix.py $^ --seed $(SEED) --out $@
NO_WIKI = $(subst $(space),$(comma),$(filter-out wiki=%,$(subst $(comma),$(space),$(MIXTURE))))
$(OUT)/three.pt: $(OUT)/three_mixed.pt
	$(FINETUNE) --data $(NO_WIKI) --steps $(F) --lr $(LR_BTX) --alpha $(ALPHA)
$(OUT)/later_mixed.pt: $(OUT)/three.pt $(OUT)/wiki.pt
	$(PY) mix.py $^ --seed $(SEED) --out $@
$(OUT)/later_short.pt: $(OUT)/later_mixed.pt
	$(call TUNE,$(quarter),$(LR_BTX),$(ALPHA))
$(OUT)/later.pt: $(OUT)/later_mixed.pt
	$(call TUNE,$(F),$(LR_BTX),$(ALPHA))

FF_EXPERTS = $(EXPERTS:$(OUT)/%=$(OUT)/ff/%)
$(FF_EXPERTS): $(OUT)/ff/%.pt: $(OUT)/seed.pt
	$(TRAIN) --init $< --data $(BRANCH) --steps $(B) --lr $(LR_BRANCH) --train feed-forwards
$(OUT)/ff_mixed.pt: $(OUT)/seed.pt $(FF_EXPERTS)
	$(PY) mix.py $^ --seed $(SEED) --out $@
$(OUT)/btx_ff.pt: $(OUT)/ff_mixed.pt
	$(call TUNE,$(F),$(LR_BTX),$(ALPHA))

# ---- scores: OUT/rivals, OUT/paper ------------------------------------------------------------------------------------------

RIVALS = dense_dm_1 dense_dm su_dm_1 su_dm
MORE   = large $(SU_CM:%=su_cm_%) btx_nolb btx_sample $(SHORT:%=%_short) top2_short lb_short frozen_short \
         sample_medium soft_medium top2_medium hidden_mixed btx_hidden ff_mixed btx_ff \
         btx_x2 su_x2 btx_x4 su_x4 three later_mixed later_short later
BTM = --btm $(SEED_AND_EXPERTS) --btm_methods tfidf:1,tfidf:2,bayes:1,bayes:2

# the pipeline's table, with the data-matched rivals in it
.PHONY: rivals
rivals: $(OUT)/rivals/report.md  ## the pipeline, and Dense (DM) and sparse upcycling (DM), trained on the same data
$(OUT)/rivals/report.md: $(PIPELINE) $(RIVALS:%=$(OUT)/%.pt) $(EVALUATES)
	$(PY) evaluate.py $(PIPELINE) $(RIVALS:%=$(OUT)/%.pt) --btm $(SEED_AND_EXPERTS) $(EVALUATE) --data_dir $(DATA) --out $(@D)

$(OUT)/paper/results.json: $(PIPELINE) $(RIVALS:%=$(OUT)/%.pt) $(MORE:%=$(OUT)/%.pt)
	$(PY) evaluate.py $^ $(BTM) $(EVALUATE) --no-figures --data_dir $(DATA) --out $(@D)
$(OUT)/hard/results.json: $(OUT)/btx_sample.pt
	$(PY) evaluate.py $^ --hard_sampling $(EVALUATE) --no-figures --data_dir $(DATA) --out $(@D)

# ---- several seeds -----------------------------------------------------------------------------------------------------------

# the graph above once for each seed, one thread each: as many at a time as -j says
SEEDS ?= 10
RUNS  := $(shell seq 0 $$(( $(SEEDS) - 1 )))
REPORT ?= $(if $(filter cpu,$(PRESET)),results,$(INTO)/results)
AT     = $(ONE_THREAD) $(MAKE) PRESET=$(PRESET) INTO=$(INTO) DATA=$(DATA)
.PHONY: paper
paper: $(RUNS:%=$(REPORT)/seed%.json)  ## the paper's experiments for SEEDS=10 seeds; REPORT=results has those that are done
	$(PY) -m experiments.paper $^ --out $(REPORT)
$(RUNS:%=$(REPORT)/seed%.json): $(REPORT)/seed%.json: | $(DOMAINS)
	+$(AT) SEED=$* $(INTO)/seed$*/paper/results.json $(INTO)/seed$*/hard/results.json
	$(PY) -m experiments.paper --collect $(INTO)/seed$* --data_dir $(DATA) --out $(REPORT)

# ---- the learning rates: on another data seed and training seed than the report's ----------------------------------------------

RATES        = 5e-4 1e-3 2e-3
BRANCH_RATES = 1e-3 1.5e-3 2.25e-3
LARGE_RATES  = 5e-3 1e-2 2e-2
GRID         = $(INTO)/grid
ON_GRID      = $(ONE_THREAD) $(MAKE) PRESET=$(PRESET) SEED=100 DATA=$(DATA)/grid PREPARE="$(PREPARE) --seed 1"
SHARED       = seed math code wiki
GRIDS        = $(RATES) $(BRANCH_RATES:%=branch-%) $(LARGE_RATES:%=large-%)
.PHONY: grid grid-shared $(GRIDS:%=grid-%)
grid: $(GRIDS:%=grid-%)  ## the learning rates of BTX and of its rivals, on other data and tasks than the report's
	$(PY) -m experiments.grid $(GRIDS:%=$(GRID)/%) --out $(REPORT)
grid-shared:
	+$(ON_GRID) OUT=$(GRID)/shared $(SHARED:%=$(GRID)/shared/%.pt)
$(RATES:%=grid-%): grid-%: grid-shared
	mkdir -p $(GRID)/$* && ln -f $(SHARED:%=$(GRID)/shared/%.pt) $(GRID)/$*
	+$(ON_GRID) OUT=$(GRID)/$* LR_BTX=$* LR_DENSE=$* LR_SU=$* WANT="dense_dm su_dm btx" $(GRID)/$*/grid/results.json
$(BRANCH_RATES:%=grid-branch-%): grid-branch-%: grid-shared
	mkdir -p $(GRID)/branch-$* && ln -f $(GRID)/shared/seed.pt $(GRID)/branch-$*
	+$(ON_GRID) OUT=$(GRID)/branch-$* LR_BRANCH=$* WANT="seed math code wiki soup btx" $(GRID)/branch-$*/grid/results.json
$(LARGE_RATES:%=grid-large-%): grid-large-%: grid-shared
	+$(ON_GRID) OUT=$(GRID)/large-$* LR_LARGE=$* S=$(shell expr $(S) / 2) WANT=large $(GRID)/large-$*/grid/results.json

$(OUT)/grid/results.json: $(WANT:%=$(OUT)/%.pt)
	$(PY) evaluate.py $^ $(EVALUATE) --no-figures --data_dir $(DATA) --out $(@D)

# ---- for which seeds and rates is the average as good as the seed, and does BTX's margin follow it? ----------------------------

AGES         = 2000 6500
REGIME_RATES = 1e-3 4e-3
AGED         = seed su_mixed su_dm_1 su_dm
CELLS       := $(foreach a,$(AGES),$(foreach r,$(REGIME_RATES),$(foreach s,$(RUNS),$a_$r_$s)))
DONE         = $(wildcard $(REPORT)/seed*.json)
part_of      = $(word $2,$(subst _, ,$1))
.PHONY: regimes $(CELLS:%=regime-%) $(foreach a,$(AGES),$(foreach s,$(RUNS),age-$a_$s))
regimes: $(CELLS:%=regime-%)  ## seeds of two ages, branches of several rates, BTX's margin; results/ has SEEDS=3
	$(PY) -m experiments.regimes $(CELLS:%=$(INTO)/regimes/%) --out $(REPORT) \
	    $(if $(DONE),--recipe $(DONE) --recipe_cell $(S)_$(LR_BRANCH))
$(foreach a,$(AGES),$(foreach s,$(RUNS),age-$a_$s)): age-%: $(DOMAINS)
	+$(AT) SEED=$(call part_of,$*,2) S=$(call part_of,$*,1) OUT=$(INTO)/regimes/$* $(INTO)/regimes/$*/su_dm.pt
define regime
regime-$1: age-$(call part_of,$1,1)_$(call part_of,$1,3)
	mkdir -p $(INTO)/regimes/$1
	ln -f $(AGED:%=$(INTO)/regimes/$(call part_of,$1,1)_$(call part_of,$1,3)/%.pt) $(INTO)/regimes/$1
	+$(AT) SEED=$(call part_of,$1,3) S=$(call part_of,$1,1) LR_BRANCH=$(call part_of,$1,2) OUT=$(INTO)/regimes/$1 \
	    WANT="seed soup btx_mixed btx su_dm" $(INTO)/regimes/$1/grid/results.json
endef
$(foreach c,$(CELLS),$(eval $(call regime,$c)))
