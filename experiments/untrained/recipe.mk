# What does a mixture do without training? One training seed: mixtures by their routers, then finetuned.
#   make -j2 -f experiments/untrained/recipe.mk SEED=16 PRESET=pretrained    (small models: SEED=15 alone)
PRESET   ?= cpu
SEED     ?= 0
BRANCHES ?= 1100
OUT      := out/untrained/$(PRESET)/seed$(SEED)/$(BRANCHES)
ifeq ($(PRESET),cpu)  # the seed is the one that `make SEED=...` trains
MAKE_SEED = $(MAKE) SEED=$(SEED) out/seed$(SEED)/seed.pt && $(call COPY,out/seed$(SEED)/seed.pt)
BTM       = seed,math,code,wiki --btm_methods share:4,tfidf:1  # an import lacks the text that tf-idf needs
endif
include Makefile
.DEFAULT_GOAL = grid
EXPERT_STEPS = $(BRANCHES)
SHARPNESS    =  # the most likely one
ROWS         = $(if $(filter cpu,$(PRESET)),1100,400 100)  # steps of a branch
LENGTHS_1100 = 48 192 770                                  # steps of finetuning
LENGTHS_400  = 53
LENGTHS_100  = 53 212
LENGTHS      = $(LENGTHS_$(BRANCHES))
LAMBDA       = 0.5  # of task arithmetic: the scale with the lowest loss on training seed 0, see rules.md
# ---- learning rates by length: those of experiments/when (see its rates.md), for sharp and flat rows alike -----------
RANDOM  = 48:1e-3 192:1e-3 770:1e-3 53:2e-4 212:2e-4
TEXT    = 48:5e-4 192:1e-3 770:1e-3 53:1e-4 212:1e-4
AVERAGE = 48:5e-4 192:1e-3 770:1e-3 53:2e-4 212:2e-4
LR      = --lr $(patsubst $*:%,%,$(filter $*:%,$(1)))
TUNE_MOE = $(FINETUNE) --data $(FINETUNE_DATA) --alpha $(ALPHA) --steps $*
BY_CHAIN = --steps $$($(PY) -m experiments.budget $(OUT)/math.pt --like $(OUT)/random_$*.pt --since $< --by chain)
$(OUT)/task.pt:       $(ALL);                  $(PY) -m experiments.task_arithmetic $^ --scale $(LAMBDA) --out $@
$(OUT)/flat_mixed.pt: $(ALL);                  $(MIX) $(ROUTER_TEXT) --ridge --sharpness 1
$(OUT)/dume_mixed.pt: $(ALL);                  $(MIX) $(ROUTER_TEXT) --ridge --sharpness 256
$(OUT)/random_%.pt:   $(OUT)/btx_mixed.pt;     $(TUNE_MOE) $(call LR,$(RANDOM))
$(OUT)/flat_%.pt:     $(OUT)/flat_mixed.pt;    $(TUNE_MOE) $(call LR,$(TEXT))
$(OUT)/sharp_%.pt:    $(OUT)/ridge_mixed.pt;   $(TUNE_MOE) $(call LR,$(TEXT))
$(OUT)/average_%.pt:  $(OUT)/average.pt $(OUT)/random_%.pt
	$(TRAIN) --init $< --data $(FINETUNE_DATA) $(BY_CHAIN) $(call LR,$(AVERAGE))
$(OUT)/dense_%.pt:    $(OUT)/seed.pt $(OUT)/random_%.pt; $(ONE_PHASE) --lr $(LR_DENSE) $(BY_CHAIN)
EVALUATE += $(if $(filter pretrained,$(PRESET)),--tasks 200 --windows 100)
MODELS = ridge_mixed average $(if $(filter pretrained,$(PRESET)),task) flat_mixed dume_mixed btx_mixed hidden_mixed \
         $(foreach n,$(LENGTHS),random_$(n) sharp_$(n) flat_$(n) average_$(n)) dense_$(lastword $(LENGTHS))
$(OUT)/scores/%/results.json: $(OUT)/%.pt; $(SCORE) $< --no_figures
$(OUT)/scores/dense/results.json: $(ALL); $(SCORE) $^ --btm $(BTM) --no_figures
row: $(patsubst %,$(OUT)/scores/%/results.json,$(MODELS) dense)
	$(PY) -m experiments.collect $^ --out experiments/untrained/runs/$(PRESET)_$(SEED)_$(BRANCHES).json
ROW    = TQDM_DISABLE=1 $(MAKE) -f experiments/untrained/recipe.mk SEED=$(SEED) PRESET=$(PRESET)
grid: ;  +for n in $(ROWS); do $(ROW) BRANCHES=$$n row || exit; done
.PRECIOUS: $(patsubst %,$(OUT)/%.pt,$(MODELS))
.PHONY: row grid
