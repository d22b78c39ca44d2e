# Real text instead of the synthetic domains, with a tokenizer trained on it: `make -j2 rivals PRESET=text`.
# The shape, and the steps of branches and finetuning, are those of PRESET=cpu.
# Fetching the text, 30 MB, needs apt (Debian, Ubuntu) and no root. Of it, the package lists are 17 MB.
SEEDS ?= 10 11 12
TEXT_DIR ?= out/texts
TEXTS  = $(TEXT_DIR)/changing.jsonl
NAMES  = python german dictionary
BTM    = seed,python,german,dictionary
# The seed reads mainly descriptions of packages. Branches and finetuning read 2.2 % as much of it, in steps:
# (3 branches x 1100 x 1 % + 770 x 5.5 %) / (4000 x 85 %).
SEED_DATA      = packages=85,python=5,german=5,dictionary=5
REPLAY         = packages=1
EXPERT_DATA    = $*=99,$(REPLAY)
PHASE_1_DATA   = $(REPLAY),python=33,german=33,dictionary=33
FINETUNE_DATA  = packages=5.5,python=31.5,german=31.5,dictionary=31.5
OWN_TEXT       = --domains= --text $(foreach name,packages $(NAMES) changing,$(name)=$(TEXT_DIR)/$(name).jsonl)
PREPARE        = --tokenizer 2048 $(OWN_TEXT)
EVALUATE       = --windows 390
GRID_PAGE      = @echo "$(GRID)/*/grid/results.json have the numbers"
SEED_STEPS     = 4000
AT_SEED        = seed-3e-3 seed-5e-3 seed-8e-3 seed-1.2e-2 seed-1.8e-2
AT_CM          =
AT_BRANCH      = branch-1e-3 branch-1.5e-3 branch-2.25e-3 branch-3.4e-3
RATES          = 5e-4 1e-3 2e-3 4e-3
LR_SEED        = 1.2e-2
LR_EXPERT      = 2.25e-3
LR_BTX         = 2e-3
LR_DENSE       = 2e-3
LR_SU          = 2e-3

# Fresh package lists in a folder of their own: a machine may have none, or none with descriptions.
APT = apt-get -o Dir::State::Lists=./lists -o Acquire::Languages=en
$(TEXTS): experiments/texts.py | .venv/ready
	mkdir -p $(TEXT_DIR)/debian/lists/partial
	cd $(TEXT_DIR)/debian && $(APT) update && $(APT) download manpages-de wordnet-base
	cd $(TEXT_DIR)/debian && /usr/lib/apt/apt-helper cat-file lists/*Translation-en* > descriptions.txt
	cd $(TEXT_DIR)/debian && for deb in *.deb; do dpkg -x $$deb .; done
	$(PY) -m experiments.texts $(TEXT_DIR)/debian --out $(TEXT_DIR)
