# When do experts beat averaging? One seed, branches of three lengths, and four lengths of finetuning for each.
#   make -j2 -f experiments/when/recipe.mk SEED=10                      everything of one training seed
#   make -j2 -f experiments/when/recipe.mk SEED=13 PRESET=pretrained    the same from the pretrained seed
PRESET   ?= cpu
SEED     ?= 0
BRANCHES ?= 1100
OUT      := out/when/$(PRESET)/seed$(SEED)/$(BRANCHES)
ifeq ($(PRESET),cpu)  # the seed is the one that `make SEED=...` trains
MAKE_SEED = $(MAKE) SEED=$(SEED) out/seed$(SEED)/seed.pt && $(call COPY,out/seed$(SEED)/seed.pt)
endif
include Makefile
.DEFAULT_GOAL = grid
EXPERT_STEPS  = $(BRANCHES)
ROWS    = $(if $(filter cpu,$(PRESET)),275 1100 2200,100 400)    # steps of a branch
LENGTHS = $(if $(filter cpu,$(PRESET)),48 192 770 1540,53 212)  # steps of finetuning
# ---- learning rates by length (those of PRESET=cpu are chosen on training seed 0, see rates.md) ----------------------
RANDOM  = 48:1e-3 192:1e-3 770:1e-3 1540:5e-4  53:2e-4 212:2e-4
TEXT    = 48:5e-4 192:1e-3 770:1e-3 1540:5e-4  53:1e-4 212:1e-4
AVERAGE = 48:5e-4 192:1e-3 770:1e-3 1540:1e-3  53:2e-4 212:2e-4
ROUTERS_RANDOM = 3e-2
ROUTERS_TEXT   = 3e-2
LR      = --lr $(or $(RATE),$(patsubst $*:%,%,$(filter $*:%,$(1))))
# ---- BTX from random routers and from text, and the average, finetuned for as many FLOPs in sequence -----------------
MATCHING = $$($(PY) -m experiments.budget $(OUT)/math.pt --like $(OUT)/$(TRY)random_$*.pt --since $< --by chain)
TUNE_MOE = $(FINETUNE) --data $(FINETUNE_DATA) --alpha $(ALPHA) $(WINDOWS)
$(OUT)/$(TRY)random_%.pt:  $(OUT)/btx_mixed.pt;   $(TUNE_MOE) --steps $* $(call LR,$(RANDOM))
$(OUT)/$(TRY)text_%.pt:    $(OUT)/ridge_mixed.pt; $(TUNE_MOE) --steps $* $(call LR,$(TEXT))
$(OUT)/$(TRY)average_%.pt: $(OUT)/average.pt $(OUT)/$(TRY)random_%.pt
	$(TRAIN) --init $< --data $(FINETUNE_DATA) --steps $(MATCHING) $(call LR,$(AVERAGE)) $(WINDOWS)
TUNE_ROUTERS = $(TUNE_MOE) --steps 770 --train router --lr
$(OUT)/$(TRY)routers_random.pt: $(OUT)/btx_mixed.pt;   $(TUNE_ROUTERS) $(or $(RATE),$(ROUTERS_RANDOM))
$(OUT)/$(TRY)routers_text.pt:   $(OUT)/ridge_mixed.pt; $(TUNE_ROUTERS) $(or $(RATE),$(ROUTERS_TEXT))
# ---- scores ----------------------------------------------------------------------------------------------------------
EVALUATE += $(if $(filter pretrained,$(PRESET)),--tasks 200 --windows 100)
CELLS  = $(foreach n,$(LENGTHS),random_$(n) text_$(n) average_$(n))
ALONE  = $(if $(filter cpu1100,$(PRESET)$(BRANCHES)),routers_random routers_text)
MODELS = average btx_mixed ridge_mixed $(CELLS) $(ALONE)
$(OUT)/scores/%/results.json: $(OUT)/%.pt; $(SCORE) $< --no_figures
$(OUT)/scores/dense/results.json: $(ALL); $(SCORE) $^ --btm $(BTM) --btm_methods document:1 --no_figures
row: $(patsubst %,$(OUT)/scores/%/results.json,dense $(MODELS))
	$(PY) -m experiments.collect $^ --out experiments/when/runs/$(PRESET)_$(SEED)_$(BRANCHES).json
ROW    = TQDM_DISABLE=1 $(MAKE) -f experiments/when/recipe.mk SEED=$(SEED) PRESET=$(PRESET)
grid: ;  +for n in $(ROWS); do $(ROW) BRANCHES=$$n row || exit; done
# `rates`: models of branches of 1,100 steps at each of three rates, validated on 64 texts of a domain
TRIED  = RATE=$$r TRY=rates/$$r/ WINDOWS="--eval_windows 64"
rates:
	+for r in 5e-4 1e-3 2e-3; do $(ROW) $(TRIED) $(CELLS:%=$(OUT)/rates/$$r/%.pt) || exit; done
	+for r in 1e-3 3e-3 1e-2; do $(ROW) $(TRIED) $(ALONE:%=$(OUT)/rates/$$r/%.pt) || exit; done
.PRECIOUS: $(patsubst %,$(OUT)/$(TRY)%.pt,$(MODELS))
.PHONY: row grid rates
