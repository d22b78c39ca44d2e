# The other models of the paper's tables, made from the pipeline's seed and experts by `make rivals` and `make paper`
LR_LARGE   ?= 5e-3
LR_DENSE   ?= 1e-3
LR_HALF    ?= 5e-4  # half of it
LR_SU      ?= 5e-4
LR_CM      ?= 1e-3  # for su_own_flops; su_cm_* use LR_SU, as registered
QUARTER := $(shell expr $(FINETUNE_STEPS) / 4)
HALF    := $(shell expr $(FINETUNE_STEPS) / 2)
# ---- mixed models --------------------------------------------------------------------------------------------------
MIX          = $(PY) mix.py $+ --seed $(SEED) --out $@
ALL          = $(OUT)/seed.pt $(EXPERTS)
ROUTER_TEXT  = --router_data $(ROUTER_DATA) --data_dir $(DATA)
ROUTER_DATA ?= general,math,code,wiki
SHARPNESS   ?= $(if $(filter cpu,$(PRESET)),--sharpness 1)  # nearly the rows of the committed runs
$(patsubst %,$(OUT)/%_mixed.pt,switch sample soft): $(OUT)/%_mixed.pt: $(ALL); $(MIX) --routing $*
$(OUT)/blend_mixed.pt:      $(ALL);     $(MIX) --blend
$(OUT)/split2of8_mixed.pt:  $(ALL);     $(MIX) --split 2 --top_k 2
$(OUT)/split4of8_mixed.pt:  $(ALL);     $(MIX) --split 2 --top_k 4
$(OUT)/hidden_mixed.pt:     $(ALL);     $(MIX) $(ROUTER_TEXT)
$(OUT)/ridge_mixed.pt:      $(ALL);     $(MIX) $(ROUTER_TEXT) --ridge $(SHARPNESS)
$(OUT)/noseed_mixed.pt:     $(EXPERTS); $(MIX)
$(OUT)/su_mixed.pt: $(OUT)/seed.pt $(OUT)/seed.pt $(OUT)/seed.pt $(OUT)/seed.pt; $(MIX)
# ---- the same, finetuned: "short" is a quarter of the recipe's steps, "medium" a half ------------------------------
TUNE = $(FINETUNE) --data $(FINETUNE_DATA) --lr $(LR_BTX)
$(OUT)/%_short.pt:      $(OUT)/%_mixed.pt;      $(TUNE) --steps $(QUARTER) --alpha 0
$(OUT)/%_medium.pt:     $(OUT)/%_mixed.pt;      $(TUNE) --steps $(HALF) --alpha 0
$(OUT)/btx_%.pt:        $(OUT)/%_mixed.pt;      $(TUNE) --steps $(FINETUNE_STEPS) --alpha $(ALPHA)
$(OUT)/top2_short.pt:   $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(QUARTER) --alpha 0
$(OUT)/top2_medium.pt:  $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(HALF) --alpha 0
$(OUT)/lb_short.pt:     $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(QUARTER) --alpha 0.01
$(OUT)/frozen_short.pt: $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(QUARTER) --alpha 0 --train all-but-experts
$(OUT)/btx_nolb.pt:     $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(FINETUNE_STEPS) --alpha 0
# twice the tokens, as in the paper
$(OUT)/btx_sample.pt:   $(OUT)/sample_mixed.pt; $(TUNE) --steps $(shell expr 2 \* $(FINETUNE_STEPS)) --alpha $(ALPHA)
# ---- the baselines -------------------------------------------------------------------------------------------------
# in place of Llama-2 13B: like the seed, but with a feed-forward twice as wide, to match the active parameters of Top-2
$(OUT)/large.pt: $(DATA)/ready train_expert.py model.py
	$(TRAIN) --data $(SEED_DATA) $(SHAPE) --d_ff $(shell expr 2 \* $(D_FF)) --steps $(SEED_STEPS) --lr $(LR_LARGE)
# data-matched (DM) to BTX, in two phases: first all that the experts read, then the mixture of MoE finetuning
PHASE_1 = --data $(REPLAY),math=31.7,code=31.7,wiki=31.6 --steps $(shell expr 3 \* $(EXPERT_STEPS))
PHASE_2 = --data $(FINETUNE_DATA) --steps $(FINETUNE_STEPS)
$(OUT)/dense_dm_1.pt: $(OUT)/seed.pt;       $(TRAIN) --init $< $(PHASE_1) --lr $(LR_DENSE)
$(OUT)/dense_dm.pt:   $(OUT)/dense_dm_1.pt; $(TRAIN) --init $< $(PHASE_2) --lr $(LR_DENSE)
$(OUT)/su_dm_1.pt:    $(OUT)/su_mixed.pt;   $(FINETUNE) $(PHASE_1) --lr $(LR_SU) --alpha $(ALPHA)
$(OUT)/su_dm.pt:      $(OUT)/su_dm_1.pt;    $(FINETUNE) $(PHASE_2) --lr $(LR_SU) --alpha $(ALPHA)
# compute-matched (CM): only the second phase, for as many steps as cost what BTX cost, in FLOPs or as the paper counts
STEPS_BY = $(PY) -m experiments.budget $(OUT)/btx.pt --like $(OUT)/btx.pt --since $(OUT)/seed.pt --by
CM       = $(FINETUNE) --data $(FINETUNE_DATA) --alpha $(ALPHA)
$(OUT)/su_cm_flops.pt:  $(OUT)/su_mixed.pt $(OUT)/btx.pt; $(CM) --lr $(LR_SU) --steps $$($(STEPS_BY) flops)
$(OUT)/su_cm_paper.pt:  $(OUT)/su_mixed.pt $(OUT)/btx.pt; $(CM) --lr $(LR_SU) --steps $$($(STEPS_BY) paper)
$(OUT)/su_own_flops.pt: $(OUT)/su_mixed.pt $(OUT)/btx.pt; $(CM) --lr $(LR_CM) --steps $$($(STEPS_BY) flops)
# Dense in one phase, on the mixture of finetuning, for as many tokens as BTX or as many FLOPs in sequence
ONE_PHASE   = $(TRAIN) --init $< --data $(FINETUNE_DATA)
CHAIN_STEPS = $$($(PY) -m experiments.budget $(OUT)/math.pt --like $(OUT)/btx.pt --since $< --by chain)
$(OUT)/dense_data.pt: $(OUT)/seed.pt
	$(ONE_PHASE) --lr $(LR_DENSE) --steps $(shell expr 3 \* $(EXPERT_STEPS) + $(FINETUNE_STEPS))
$(OUT)/dense_chain.pt:      $(OUT)/seed.pt $(OUT)/btx.pt; $(ONE_PHASE) --lr $(LR_DENSE) --steps $(CHAIN_STEPS)
$(OUT)/dense_chain_5e-4.pt: $(OUT)/seed.pt $(OUT)/btx.pt; $(ONE_PHASE) --lr $(LR_HALF) --steps $(CHAIN_STEPS)
$(OUT)/average_tuned.pt: $(OUT)/average.pt; $(TRAIN) --init $< $(PHASE_2) --lr $(LR_BTX)
$(OUT)/average_chain.pt: $(OUT)/average.pt $(OUT)/btx.pt; $(ONE_PHASE) --lr $(LR_BTX) --steps $(CHAIN_STEPS)
$(OUT)/average_twice.pt: $(OUT)/average.pt $(OUT)/btx.pt; $(ONE_PHASE) --lr $(LR_BTX) --steps $$((2 * $(CHAIN_STEPS)))
# ---- scores --------------------------------------------------------------------------------------------------------
RIVALS ?= $(PIPELINE) $(patsubst %,$(OUT)/%.pt,dense_dm_1 dense_dm su_dm_1 su_dm)
OTHERS = large su_cm_flops su_cm_paper btx_nolb btx_sample switch_short sample_short soft_short blend_short \
         split2of8_short split4of8_short top2_short lb_short frozen_short sample_medium soft_medium top2_medium \
         btx_noseed average_tuned hidden_mixed ridge_mixed btx_hidden btx_ridge
SCORE  = $(PY) evaluate.py $(EVALUATE) --data_dir $(DATA) --out $(@D)
rivals: $(OUT)/rivals/report.md  ## the pipeline, and Dense (DM) and sparse upcycling (DM), trained on the same data
# the registered BTM is by Bayes; a preset whose BTM names a method has that one, since the last of two options counts
$(OUT)/rivals/report.md: $(RIVALS) evaluate.py; $(SCORE) $(RIVALS) --btm_methods bayes:1 --btm $(BTM)
tables: $(OUT)/paper/results.json
$(OUT)/paper/results.json: $(OUT)/seed.pt $(EXPERTS) $(OTHERS:%=$(OUT)/%.pt)
	$(SCORE) $^ --btm $(BTM) --btm_methods tfidf:1,tfidf:2,bayes:2 --no_figures
TIMED = $(patsubst %,$(OUT)/%.pt,average_chain average_twice btx dense_data dense_chain dense_chain_5e-4 su_own_flops)
$(OUT)/equal_flops/results.json: $(OUT)/seed.pt $(EXPERTS) $(OUT)/average.pt $(OUT)/su_dm.pt $(TIMED)
	$(SCORE) $^ --btm $(BTM) --btm_methods bayes:1,share:4 --no_figures
# ---- several seeds: make calls itself for each of them, as many at a time as -j says -------------------------------
# All SEEDS train the models of the main rows. The first five also train those of Tables 3 to 5.
SEEDS           ?= 10 11 12 13 14 15 16 17 18 19
PAPER_SEEDS     ?= $(wordlist 1,5,$(SEEDS))
AGAIN = TQDM_DISABLE=1 $(MAKE)
RUNS  = $(SEEDS:%=$(REPORT)/runs/seed%.json)
TIMES = $(patsubst %,$(REPORT)/equal_flops/seed%.json,$(PAPER_SEEDS))
paper: $(RUNS) $(TIMES)  ## the paper's tables, from experiments/paper; REPORT=FOLDER repeats all its runs, too
	$(PY) -m experiments.tables paper --out $(REPORT)
$(PAPER_SEEDS:%=$(REPORT)/runs/seed%.json):     ALSO += tables
$(RUNS): $(REPORT)/runs/seed%.json: | $(DATA)/ready
	+$(AGAIN) SEED=$* rivals $(ALSO)
	$(PY) -m experiments.collect $(INTO)/seed$*/[rp]*/results.json --out $@
# These runs reuse models of `rivals` and `tables`. If they went side by side, two makes would train the same models.
$(TIMES): $(REPORT)/equal_flops/seed%.json: | $(DATA)/ready $(REPORT)/runs/seed%.json
	+$(AGAIN) SEED=$* $(INTO)/seed$*/equal_flops/results.json
	$(call COPY,$(INTO)/seed$*/equal_flops/results.json)
.PHONY: rivals tables paper
