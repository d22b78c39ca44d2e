# Real text instead of the synthetic domains: `make -j2 rivals PRESET=text`, from scratch, with a tokenizer trained on it. It takes
# apt-get and dpkg (Debian, Ubuntu) to fetch the text, 10 MB.

INTO  ?= out/text
DATA  ?= data/bin/text
TEXTS  = out/texts/changing.jsonl
NAMES  = python german dictionary
TESTED = $(NAMES) changing
SEED_DATA      = python=1,german=1,dictionary=1
EXPERT_DATA    = $(subst $(space),,$*=95$(foreach other,$(filter-out $*,$(NAMES)),$(comma)$(other)=2.5))
EXPERTS_DATA   = $(SEED_DATA)
FINETUNE_DATA  = $(SEED_DATA)
PREPARE        = --domains "" --text $(foreach name,$(TESTED),$(name)=out/texts/$(name).jsonl) --tokenizer 4096
SHAPE          = --n_layer 4 --n_head 4 --n_embd 128
D_FF           = 512
SEED_STEPS     = 2000
EXPERT_STEPS   = 700
FINETUNE_STEPS = 400
LR_SEED        = 4e-3
LR_EXPERT      = 1.5e-3
LR_BTX         = 1e-3

$(TEXTS): experiments/texts.py | .venv/ready
	mkdir -p out/texts/debian
	cd out/texts/debian && apt-get download manpages-de wordnet-base && for deb in *.deb; do dpkg -x $$deb .; done
	$(PY) -m experiments.texts out/texts/debian --out out/texts
