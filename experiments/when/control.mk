# A control: four copies of the average of branches of 1,100 steps are mixed instead of the branches, and finetuned in
# the same way.
#   make -j2 -f experiments/when/control.mk SEED=10    uses the average that recipe.mk has made
override BRANCHES = 1100
include experiments/when/recipe.mk
.DEFAULT_GOAL = control
COPIES     = $(foreach n,192 770,copies/random_$(n) copies/text_$(n))
MIX_COPIES = $(PY) mix.py $< $< $< $< --seed $(SEED) --out $@
$(OUT)/copies/random_mixed.pt: $(OUT)/average.pt; $(MIX_COPIES)
$(OUT)/copies/text_mixed.pt:   $(OUT)/average.pt; $(MIX_COPIES) $(ROUTER_TEXT) --ridge
$(OUT)/$(TRY)copies/random_%.pt: $(OUT)/copies/random_mixed.pt; $(TUNE_MOE) --steps $* $(call LR,$(RANDOM))
$(OUT)/$(TRY)copies/text_%.pt:   $(OUT)/copies/text_mixed.pt;   $(TUNE_MOE) --steps $* $(call LR,$(TEXT))
control: $(COPIES:%=$(OUT)/scores/%/results.json)
	$(PY) -m experiments.collect $^ --out experiments/when/runs/$(PRESET)_$(SEED)_copies.json
.PRECIOUS: $(COPIES:%=$(OUT)/%.pt)
.PHONY: control
