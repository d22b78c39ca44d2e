# Real text instead of the synthetic domains: `make -j2 rivals PRESET=text`, a seed from scratch with a tokenizer of its own, and
# PRESET=smol, whose seed is SmolLM2-135M-Instruct. It takes apt-get and dpkg (Debian, Ubuntu) to fetch the text, 10 MB.

INTO     ?= out/$(PRESET)
DATA     ?= data/bin/$(PRESET)
TEXTS     = out/texts
NAMES     = python german dictionary
TESTED    = $(NAMES) changing
SEED_DATA = python=1,german=1,dictionary=1
BRANCH    = $(subst $(space),,$*=95$(foreach n,$(filter-out $*,$(NAMES)),$(comma)$n=2.5))
BRANCHES  = $(SEED_DATA)
MIXTURE   = $(SEED_DATA)
ifeq ($(PRESET),text)
WORDS     = --tokenizer 4096
SHAPE     = --n_layer 4 --n_head 4 --n_embd 128
D_FF      = 512
S         = 2000
B         = 700
F         = 400
LR_SEED   = 4e-3
LR_BRANCH = 1.5e-3
LR_BTX    = 1e-3
else
IMPORTED  = $(OUT)/hf/config.json
WORDS     = --init $(OUT)/seed.pt
ALL       = --batch_size 4 --dtype bfloat16 --eval_every 30 --eval_windows 4
EVALUATE  = --windows 20
B         = 30
F         = 20
LR_BRANCH = 3e-4
LR_BTX    = 3e-4
LR_DENSE  = 3e-4
LR_SU     = 3e-4
endif
