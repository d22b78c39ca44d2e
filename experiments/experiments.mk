# The paper's experiments: `make paper`, `make grid`, `make regimes`. What each model is stands in paper.mk.

# paper.mk's graph once for each seed, all at the same time; SIZE=tiny is a rehearsal of a minute, in folders of its own
TINY       = $(addprefix -,$(filter tiny,$(SIZE)))
PAPER      = out/paper$(TINY)
PAPER_DATA = data/bin/paper$(TINY)
REPORT     = $(if $(TINY),$(PAPER)/results,results)
PAPER_MAKE = $(MAKE) -f experiments/paper.mk D=$(PAPER_DATA)

.PHONY: paper paper-data $(RUNS:%=paper-seed%)
paper: $(RUNS:%=paper-seed%)  ## every experiment of the paper for SEEDS seeds, into results/: about 40 minutes with -j2
	$(PY) -m experiments.paper $(RUNS:%=$(PAPER)/seed%) --data_dir $(PAPER_DATA) --out $(REPORT)

paper-data: .venv/ready
	$(PAPER_MAKE) $(PAPER_DATA)/switch/meta.json

$(RUNS:%=paper-seed%): paper-seed%: paper-data
	$(PAPER_MAKE) SEED=$* O=$(PAPER)/seed$*

# the learning rates, in shorter runs: the branches' with the finetuning at the recipe's rate, and everything else's
RATES        = 1e-3 2e-3 4e-3 8e-3
BRANCH_RATES = 2e-3 4e-3 8e-3
GRID_MODELS  = large dense_dm su_dm btx top2_short soft_short sample_short switch_short
SHARED       = seed math code wiki
SHORTER      = $(PAPER_MAKE) B=600 F=900
.PHONY: grid grid-shared $(RATES:%=grid-%) $(BRANCH_RATES:%=grid-branch-%)
grid: $(RATES:%=grid-%) $(BRANCH_RATES:%=grid-branch-%)  ## several learning rates for the branches, for BTX and for the baselines
	$(PY) -m experiments.paper --grid $(PAPER)/grid/[0-9]*e-[0-9] $(PAPER)/grid/branch-* --out $(REPORT)

grid-shared: paper-data
	$(PAPER_MAKE) O=$(PAPER)/seed0 $(PAPER)/seed0/seed.pt
	mkdir -p $(PAPER)/grid/shared && ln -f $(PAPER)/seed0/seed.pt $(PAPER)/grid/shared
	$(SHORTER) O=$(PAPER)/grid/shared $(SHARED:%=$(PAPER)/grid/shared/%.pt)
	for r in $(RATES); do mkdir -p $(PAPER)/grid/$$r && ln -f $(SHARED:%=$(PAPER)/grid/shared/%.pt) $(PAPER)/grid/$$r; done
	for r in $(BRANCH_RATES); do mkdir -p $(PAPER)/grid/branch-$$r && ln -f $(PAPER)/seed0/seed.pt $(PAPER)/grid/branch-$$r; done
$(RATES:%=grid-%): grid-%: grid-shared
	$(SHORTER) O=$(PAPER)/grid/$* LR_LARGE=$* LR_BTX=$* LR_DENSE=$* LR_SU=$* WANT="$(GRID_MODELS)" $(PAPER)/grid/$*/some/results.json
$(BRANCH_RATES:%=grid-branch-%): grid-branch-%: grid-shared
	$(SHORTER) O=$(PAPER)/grid/branch-$* LR_BRANCH=$* WANT="math code wiki btx" $(PAPER)/grid/branch-$*/some/results.json

# when does branching pay? small runs over the seed's age (steps), the learning rate of the branches (and of the rivals, the
# better of which counts), and the facts to be known by heart
AGES         = 1000 4000 12000
REGIME_RATES = 1e-3 4e-3
FACT_LOADS   = 50 200
REGIMES      = $(foreach f,$(FACT_LOADS),$(foreach s,$(AGES),$f-$s))
CELLS        = $(foreach r,$(REGIMES),$(foreach l,$(REGIME_RATES),$r_$l))
word_of      = $(word $2,$(subst -, ,$1))
REGIME       = $(MAKE) -f experiments/paper.mk FACTS=$(call word_of,$1,1) D=data/bin/facts$(call word_of,$1,1) \
               S=$(call word_of,$1,2) B=600 F=900 ALPHA=0
.PHONY: regimes
regimes: $(CELLS:%=out/regimes/%/some/results.json)  ## BTX against Dense (DM) and sparse upcycling in different regimes
	$(PY) -m experiments.regimes $(CELLS:%=out/regimes/%) --out $(REPORT)

data/bin/facts%/switch/meta.json: | .venv/ready
	$(PY) -m data.prepare --facts $* --out data/bin/facts$*
define regime
out/regimes/$1/seed.pt: | data/bin/facts$(call word_of,$1,1)/switch/meta.json
	$$(call REGIME,$1) O=out/regimes/$1 out/regimes/$1/seed.pt
endef
$(foreach r,$(REGIMES),$(eval $(call regime,$r)))
define cell
out/regimes/$1_$2/some/results.json: out/regimes/$1/seed.pt
	mkdir -p out/regimes/$1_$2 && ln -f out/regimes/$1/seed.pt out/regimes/$1_$2
	$$(call REGIME,$1) O=out/regimes/$1_$2 LR_BRANCH=$2 LR_DENSE=$2 LR_SU=$2 out/regimes/$1_$2/some/results.json
endef
$(foreach r,$(REGIMES),$(foreach l,$(REGIME_RATES),$(eval $(call cell,$r,$l))))
