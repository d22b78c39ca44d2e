# Sharp router rows on real text, where BTX lost: the recipe of commit 2da3d2e, without questions about countries.
#   make -f experiments/sharp.mk untrained      then      make -f experiments/sharp.mk all
PRESET = pretrained
override TEXTS = out/texts/changing.jsonl out/pretrained/imported.pt
include Makefile
PREPARE  = --init $(IMPORTED) $(OWN_TEXT)
EVALUATE = --dtype bfloat16 --batch_size 4 --windows 40 --skip_windows 16 --btm_methods bayes:1,bayes:2
MIX_flat  = $(MIX_ridge) --sharpness 1
MIX_sharp = $(MIX_ridge)
$(OUT)/flat_mixed.pt $(OUT)/sharp_mixed.pt: $(OUT)/seed.pt $(EXPERTS)
DENSE_MODELS = $(OUT)/seed.pt $(EXPERTS)
score = $(PY) evaluate.py $(1) $(EVALUATE) --data_dir $(DATA) --out $(OUT)/scores/$(2)
untrained: $(OUT)/scores/untrained/results.json
$(OUT)/scores/untrained/results.json: $(DENSE_MODELS) $(OUT)/soup.pt $(patsubst %,$(OUT)/%_mixed.pt,btx flat sharp)
	$(call score,$^,untrained) --btm $(BTM)
ALONE = soup_tuned btx btx_flat btx_sharp dense_dm su_dm
$(patsubst %,$(OUT)/scores/%/results.json,$(ALONE)): $(OUT)/scores/%/results.json: $(OUT)/%.pt; $(call score,$<,$*)
all: $(patsubst %,$(OUT)/scores/%/results.json,untrained $(ALONE))
.PHONY: untrained all
