# Real text instead of the synthetic domains: `make -j2 rivals PRESET=text`, with a tokenizer trained on it.
# Fetching the text, 10 MB, needs apt-get and dpkg (Debian, Ubuntu).
INTO  ?= out/text
DATA  ?= data/bin/text
TEXTS  = out/texts/changing.jsonl
NAMES  = python german dictionary
BTM    = seed,python,german,dictionary
SEED_DATA         = python=1,german=1,dictionary=1
REPLAY_python     = german=2.5,dictionary=2.5
REPLAY_german     = python=2.5,dictionary=2.5
REPLAY_dictionary = python=2.5,german=2.5
EXPERT_DATA       = $*=95,$(REPLAY_$*)
PHASE_1_DATA      = $(SEED_DATA)
FINETUNE_DATA     = $(SEED_DATA)
PREPARE        = --domains "" --text $(foreach name,$(NAMES) changing,$(name)=out/texts/$(name).jsonl) --tokenizer 4096
SHAPE          = --n_layer 4 --n_head 4 --n_embd 128
D_FF           = 512
SEED_STEPS     = 2000
EXPERT_STEPS   = 700
FINETUNE_STEPS = 400
LR_SEED        = 4e-3

$(TEXTS): experiments/texts.py | .venv/ready
	mkdir -p out/texts/debian
	cd out/texts/debian && apt-get download manpages-de wordnet-base && for deb in *.deb; do dpkg -x $$deb .; done
	$(PY) -m experiments.texts out/texts/debian --out out/texts
