# The other models of the paper's tables, from the pipeline's seed and experts: `make rivals`, `make paper`, `make grid`
# The models' names are those of the report; paper.md says which of them stand in which table.
LR_LARGE ?= 5e-3
LR_DENSE ?= 1e-3
LR_SU    ?= 5e-4
LR_CM    ?= 1e-3  # of su_own_*; su_cm_* have LR_SU, as registered
LR_DENSE_2 ?= $(LR_DENSE)  # of the second phases
LR_SU_2    ?= $(LR_SU)
QUARTER := $(shell expr $(FINETUNE_STEPS) / 4)
HALF    := $(shell expr $(FINETUNE_STEPS) / 2)

# ---- mixed models: first of the seed and all experts, with these options; then of others ---------------------------
MIX_switch    = --routing switch
MIX_sample    = --routing sample
MIX_soft      = --routing soft
MIX_blend     = --blend
MIX_split2of8 = --split 2 --top_k 2
MIX_split4of8 = --split 2 --top_k 4
MIX_hidden    = --router_data $(ROUTER_DATA) --data_dir $(DATA)
MIX_ridge     = $(MIX_hidden) --ridge
ROUTER_DATA  ?= general,math,code,wiki
$(OUT)/%_mixed.pt:
	$(PY) mix.py $+ $(MIX_$*) --seed $(SEED) --out $@
$(patsubst %,$(OUT)/%_mixed.pt,switch sample soft blend split2of8 split4of8 hidden ridge): $(OUT)/seed.pt $(EXPERTS)
# sparse upcycling
$(OUT)/su_mixed.pt: $(OUT)/seed.pt $(OUT)/seed.pt $(OUT)/seed.pt $(OUT)/seed.pt
# a control: the three experts without the seed
$(OUT)/noseed_mixed.pt: $(EXPERTS)
# an expert that comes later: seed, math and code are mixed and finetuned without wiki's text; then wiki is added
$(OUT)/three_mixed.pt: $(OUT)/seed.pt $(OUT)/math.pt $(OUT)/code.pt
$(OUT)/later_mixed.pt: $(OUT)/three.pt $(OUT)/wiki.pt
# experts that train their feed-forwards alone, so that nothing needs to be averaged
$(OUT)/ff_mixed.pt: $(OUT)/seed.pt $(NAMES:%=$(OUT)/ff/%.pt)
$(OUT)/ff/%.pt: $(OUT)/seed.pt
	$(TRAIN) --init $< --data $(EXPERT_DATA) --steps $(EXPERT_STEPS) --lr $(LR_EXPERT) --train feed-forwards

# ---- the same finetuned: short is a quarter of the recipe's steps, medium a half -----------------------------------
TUNE = $(FINETUNE) --data $(FINETUNE_DATA) --lr $(LR_BTX)
$(OUT)/%_short.pt:      $(OUT)/%_mixed.pt;      $(TUNE) --steps $(QUARTER) --alpha 0
$(OUT)/%_medium.pt:     $(OUT)/%_mixed.pt;      $(TUNE) --steps $(HALF) --alpha 0
$(OUT)/btx_%.pt:        $(OUT)/%_mixed.pt;      $(TUNE) --steps $(FINETUNE_STEPS) --alpha $(ALPHA)
# the exceptions: their mixed model has another name, or their options differ
$(OUT)/top2_short.pt:   $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(QUARTER) --alpha 0
$(OUT)/top2_medium.pt:  $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(HALF) --alpha 0
$(OUT)/lb_short.pt:     $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(QUARTER) --alpha 0.01
$(OUT)/frozen_short.pt: $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(QUARTER) --alpha 0 --train all-but-experts
$(OUT)/btx_nolb.pt:     $(OUT)/btx_mixed.pt;    $(TUNE) --steps $(FINETUNE_STEPS) --alpha 0
$(OUT)/later_short.pt:  $(OUT)/later_mixed.pt;  $(TUNE) --steps $(QUARTER) --alpha $(ALPHA)
$(OUT)/later.pt:        $(OUT)/later_mixed.pt;  $(TUNE) --steps $(FINETUNE_STEPS) --alpha $(ALPHA)
# twice the tokens, as in the paper; not the same compute: here one layer of four is soft, there one of 32
$(OUT)/btx_sample.pt:   $(OUT)/sample_mixed.pt; $(TUNE) --steps $(shell expr 2 \* $(FINETUNE_STEPS)) --alpha $(ALPHA)
$(OUT)/three.pt: $(OUT)/three_mixed.pt
	$(FINETUNE) --data general=14,trivia=5,math=27,code=27 --steps $(FINETUNE_STEPS) --lr $(LR_BTX) --alpha $(ALPHA)

# ---- the baselines -------------------------------------------------------------------------------------------------
# in the place of Llama-2 13B: as the seed, but its feed-forward is twice as wide, for the active parameters of Top-2
$(OUT)/large.pt: $(DATA)/ready train_expert.py model.py
	$(TRAIN) --data $(SEED_DATA) $(SHAPE) --d_ff $(shell expr 2 \* $(D_FF)) --steps $(SEED_STEPS) --lr $(LR_LARGE)
# data-matched (DM) to BTX, in two phases: all that the experts read, then the mixture of MoE finetuning
PHASE_1_DATA ?= $(REPLAY),math=31.7,code=31.7,wiki=31.6
PHASE_1 = --data $(PHASE_1_DATA) --steps $(shell expr 3 \* $(EXPERT_STEPS))
PHASE_2 = --data $(FINETUNE_DATA) --steps $(FINETUNE_STEPS)
$(OUT)/dense_dm_1.pt: $(OUT)/seed.pt;       $(TRAIN) --init $< $(PHASE_1) --lr $(LR_DENSE)
$(OUT)/dense_dm.pt:   $(OUT)/dense_dm_1.pt; $(TRAIN) --init $< $(PHASE_2) --lr $(LR_DENSE_2)
$(OUT)/su_dm_1.pt:    $(OUT)/su_mixed.pt;   $(FINETUNE) $(PHASE_1) --lr $(LR_SU) --alpha $(ALPHA)
$(OUT)/su_dm.pt:      $(OUT)/su_dm_1.pt;    $(FINETUNE) $(PHASE_2) --lr $(LR_SU_2) --alpha $(ALPHA)
# compute-matched (CM): the second phase alone, for the steps that cost what BTX cost, in FLOPs or as the paper counts
CM_STEPS = $(PY) -m experiments.budget $(OUT)/su_dm.pt --like $(OUT)/btx.pt --since $(OUT)/seed.pt --by $*
CM = $(FINETUNE) --data $(FINETUNE_DATA) --steps $$($(CM_STEPS)) --alpha $(ALPHA)
$(OUT)/su_cm_%.pt:  $(OUT)/su_mixed.pt $(OUT)/su_dm.pt $(OUT)/btx.pt; $(CM) --lr $(LR_SU)
$(OUT)/su_own_%.pt: $(OUT)/su_mixed.pt $(OUT)/su_dm.pt $(OUT)/btx.pt; $(CM) --lr $(LR_CM)
# BTX finetuned until it costs what sparse upcycling (DM) costs (its branches are paid already); and finetuned twice
$(OUT)/btx_long.pt: $(OUT)/btx_mixed.pt $(OUT)/su_dm.pt $(OUT)/btx.pt
	$(TUNE) --steps $$($(PY) -m experiments.budget $(OUT)/btx.pt --like $(OUT)/su_dm.pt --since $<) --alpha $(ALPHA)
$(OUT)/btx_twice.pt: $(OUT)/btx.pt; $(TUNE) --steps $(FINETUNE_STEPS) --alpha $(ALPHA)
# each at the other's learning rate
$(OUT)/dense_slow_1.pt: $(OUT)/seed.pt;         $(TRAIN) --init $< $(PHASE_1) --lr $(LR_SU)
$(OUT)/dense_slow.pt:   $(OUT)/dense_slow_1.pt; $(TRAIN) --init $< $(PHASE_2) --lr $(LR_SU)
$(OUT)/su_fast_1.pt:    $(OUT)/su_mixed.pt;     $(FINETUNE) $(PHASE_1) --lr $(LR_DENSE) --alpha $(ALPHA)
$(OUT)/su_fast.pt:      $(OUT)/su_fast_1.pt;    $(FINETUNE) $(PHASE_2) --lr $(LR_DENSE) --alpha $(ALPHA)
# the average of all weights, finetuned for as long as BTX
$(OUT)/soup_tuned.pt: $(OUT)/soup.pt;       $(TRAIN) --init $< $(PHASE_2) --lr $(LR_BTX)

# ---- where averaging costs: branches with other epsilons of AdamW than the recipe's --------------------------------
$(OUT)/eps-%/ready: $(OUT)/seed.pt
	mkdir -p $(@D) && cp -p $< $(@D)
	+$(AGAIN) OUT=$(@D) OPTIONS="$(OPTIONS) --eps $*" $(NAMES:%=$(@D)/%.pt)
	touch $@
$(OUT)/eps-1e-8_mixed.pt $(OUT)/eps-1e-4_mixed.pt: $(OUT)/%_mixed.pt: $(OUT)/%/ready
	$(PY) mix.py $(patsubst %,$(OUT)/$*/%.pt,seed $(NAMES)) --seed $(SEED) --out $@
# in the committed results this is a later run, on another processor: see paper.md
$(OUT)/btx_again.pt: $(OUT)/btx.pt; cp $< $@
$(OUT)/averaging.json: $(EXPERTS) $(OUT)/eps-1e-8/ready $(OUT)/eps-1e-4/ready
	$(PY) -m experiments.averaging eps-1e-5=$(OUT) eps-1e-8=$(OUT)/eps-1e-8 eps-1e-4=$(OUT)/eps-1e-4 \
	    --data_dir $(DATA) --out $@

# ---- scores --------------------------------------------------------------------------------------------------------
RIVALS = $(PIPELINE) $(patsubst %,$(OUT)/%.pt,dense_dm_1 dense_dm su_dm_1 su_dm)
OTHERS = large su_cm_flops su_cm_paper su_own_flops su_own_paper btx_again \
         btx_nolb btx_sample switch_short sample_short soft_short blend_short split2of8_short \
         split4of8_short top2_short lb_short frozen_short sample_medium soft_medium top2_medium \
         btx_noseed soup_tuned hidden_mixed ridge_mixed btx_hidden btx_ridge
BEYOND = ff_mixed btx_ff three later_mixed later_short later btx_eps-1e-8 btx_eps-1e-4
SCORE  = $(PY) evaluate.py $(EVALUATE) --data_dir $(DATA) --out $(@D)
rivals: $(OUT)/rivals/report.md  ## the pipeline, and Dense (DM) and sparse upcycling (DM), trained on the same data
$(OUT)/rivals/report.md: $(RIVALS) evaluate.py; $(SCORE) $(RIVALS) --btm $(BTM)
tables: $(OUT)/paper/results.json $(OUT)/drawn/results.json
$(OUT)/paper/results.json: $(OUT)/seed.pt $(EXPERTS) $(OTHERS:%=$(OUT)/%.pt)
	$(SCORE) $^ --btm $(BTM) --btm_methods tfidf:1,tfidf:2,bayes:2 --no_figures
$(OUT)/drawn/results.json: $(OUT)/btx_sample.pt  # and mean_gate/results.json
	$(PY) -m experiments.sample_top1 $< $(EVALUATE) --data_dir $(DATA) --out $(OUT)
beyond: $(OUT)/beyond/results.json $(OUT)/averaging.json
$(OUT)/beyond/results.json: $(BEYOND:%=$(OUT)/%.pt); $(SCORE) $^ --no_figures

# ---- the learning rates: on another data seed and training seed than the report's ----------------------------------
GRID      = $(INTO)/grid
ON_GRID   = $(AGAIN) SEED=100 DATA=$(DATA)/grid PREPARE="$(PREPARE) --seed 1" $(GRID_OPTIONS)
# Each point is a folder, named after its rate.
AT_SEED   ?= seed-2e-3 seed-3e-3 seed-5e-3 seed-8e-3
AT_BRANCH ?= branch-1e-3 branch-1.5e-3 branch-2.25e-3
RATES     ?= 2.5e-4 5e-4 1e-3 2e-3
AT_LARGE  ?= large-3e-3 large-5e-3 large-1e-2
AT_CM     ?= cm-5e-4 cm-1e-3 cm-2e-3
POINTS    = $(patsubst %,$(GRID)/%,$(AT_SEED) $(AT_BRANCH) $(RATES) $(AT_LARGE) $(AT_CM))
grid: $(POINTS)  ## the learning rates of BTX and of its rivals, on other data and tasks than the report's
	$(GRID_PAGE)
GRID_PAGE ?= $(PY) -m experiments.grid $^ --out $(REPORT)
SHARED      ?= $(NAMES)
# At the recipe's rate a point would train what `shared` already has, so it copies all of that. Else it copies the seed.
FROM_SHARED  = $(if $(filter $*,$(LR_EXPERT)),*.pt,seed.pt)
BRANCH_WANT ?= seed $(NAMES) soup
grid-shared: | $(TEXTS)
	+$(ON_GRID) OUT=$(GRID)/shared $(SHARED:%=$(GRID)/shared/%.pt)
$(POINTS): grid-shared
$(AT_SEED:%=$(GRID)/%): $(GRID)/seed-%:
	+$(ON_GRID) OUT=$@ LR_SEED=$* WANT=seed $@/grid/results.json
$(AT_BRANCH:%=$(GRID)/%): $(GRID)/branch-%:
	mkdir -p $@ && cp -p $(GRID)/shared/$(FROM_SHARED) $@
	+$(ON_GRID) OUT=$@ LR_EXPERT=$* LR_DENSE=$* LR_SU=$* WANT="$(BRANCH_WANT)" $@/grid/results.json
$(RATES:%=$(GRID)/%): $(GRID)/%:
	mkdir -p $@ && cp -p $(GRID)/shared/*.pt $@
	+$(ON_GRID) OUT=$@ LR_BTX=$* LR_DENSE=$* LR_SU=$* LR_DENSE_2=$* LR_SU_2=$* \
	    WANT="dense_dm su_dm btx" $@/grid/results.json
$(AT_LARGE:%=$(GRID)/%): $(GRID)/large-%:
	+$(ON_GRID) OUT=$@ LR_LARGE=$* SEED_STEPS=$(shell expr $(SEED_STEPS) / 2) WANT=large $@/grid/results.json
# its steps follow from what BTX and upcycling (DM) cost, which is the same at each rate
$(AT_CM:%=$(GRID)/%): $(GRID)/cm-%: $(firstword $(RATES:%=$(GRID)/%))
	mkdir -p $@ && cp -p $</*.pt $@
	+$(ON_GRID) OUT=$@ LR_CM=$* WANT=su_own_flops $@/grid/results.json
$(OUT)/grid/results.json: $(WANT:%=$(OUT)/%.pt); $(SCORE) $^ --no_figures

# ---- several seeds: make calls itself for each of them, as many at a time as -j says -------------------------------
# SEEDS train the main rows. The first five also have Tables 3 to 5, three of these what is beyond the paper.
SEEDS        ?= 10 11 12 13 14 15 16 17 18 19
PAPER_SEEDS  ?= $(wordlist 1,5,$(SEEDS))
BEYOND_SEEDS ?= $(wordlist 3,5,$(SEEDS))
REPORT       ?= results
AGAIN = TQDM_DISABLE=1 $(MAKE)
RUNS  = $(SEEDS:%=$(REPORT)/seed%.json)
paper: $(RUNS)  ## the paper's report, from results/; REPORT=FOLDER repeats all its runs, too
	$(PY) -m experiments.paper $^ --out $(REPORT)
$(PAPER_SEEDS:%=$(REPORT)/seed%.json): ALSO += tables
$(BEYOND_SEEDS:%=$(REPORT)/seed%.json): ALSO += beyond
$(RUNS): $(REPORT)/seed%.json: | $(DATA)/ready
	+$(AGAIN) SEED=$* rivals $(ALSO)
	$(PY) -m experiments.paper --collect $(INTO)/seed$* --data_dir $(DATA) --out $@
text:  ## BTX and its rivals on real text, three seeds and a grid of rates; needs apt; see experiments/text.mk
	$(MAKE) PRESET=text text-report
text-report: $(SEEDS:%=text-%) $(filter-out $(GRID)/large-%,$(POINTS))
	$(PY) -m experiments.text_report $(SEEDS:%=$(INTO)/seed%/rivals/results.json) --grid $(GRID)
$(SEEDS:%=text-%): text-%: | $(DATA)/ready
	+$(AGAIN) SEED=$* rivals

# ---- facts that nobody reads again: branches and finetuning read half of trivia's subjects (`read`), or none --------
UNREAD_SEEDS ?= 20 21 22 23 24
UNREAD        = $(INTO)/unread
READ_half     = REPLAY=general=4,read=1 FINETUNE_DATA=general=14,read=5,math=27,code=27,wiki=27
READ_none     = REPLAY=general=5 FINETUNE_DATA=general=19,math=27,code=27,wiki=27
UNREAD_WANT   = seed soup soup_tuned btx_mixed btx btx_long dense_dm dense_slow su_dm su_fast
ON_UNREAD     = $(AGAIN) DATA=$(DATA)/unread TEXTS=$(UNREAD)/read.jsonl WANT="$(UNREAD_WANT)" \
                PREPARE="$(PREPARE) --seed 2 --text read=$(UNREAD)/read.jsonl \
                --own_tasks read=$(UNREAD)/read.tasks.jsonl unread=$(UNREAD)/unread.tasks.jsonl"
unread: $(UNREAD_SEEDS:%=$(REPORT)/unread/seed%.json)  ## what is kept of facts that nobody reads again; REPORT=FOLDER repeats its runs, too
	$(PY) -m experiments.unread $^ --out $(REPORT)/unread
$(REPORT)/unread/seed%.json: | unread-data
	mkdir -p $(UNREAD)/none-$*
	+$(ON_UNREAD) SEED=$* OUT=$(UNREAD)/half-$* $(READ_half) $(UNREAD)/half-$*/grid/results.json
	cp -p $(UNREAD)/half-$*/seed.pt $(UNREAD)/none-$*
	+$(ON_UNREAD) SEED=$* OUT=$(UNREAD)/none-$* $(READ_none) $(UNREAD)/none-$*/grid/results.json
	$(PY) -m experiments.unread --collect $(UNREAD)/half-$* $(UNREAD)/none-$* --out $@
unread-data:
	+$(ON_UNREAD) $(DATA)/unread/ready
$(UNREAD)/read.jsonl: | .venv/ready; $(PY) -m experiments.unread --write $(@D)
.PHONY: unread unread-data rivals tables beyond paper grid grid-shared text text-report $(SEEDS:%=text-%) $(POINTS)
