# Every model of the paper's tables from one seed, as a graph of files. `make paper` runs it for SEEDS seeds, `make grid` for
# several learning rates. The models' names are those of the report; paper.py says which of them stand in which table.
#
#   seed -> math, code, wiki -> *_mixed -> *_short, *_medium, btx, btx_sample        Branch-Train-MiX, by routing method and so on
#        -> dense_dm_1 -> dense_dm;  su_mixed -> su_dm_1 -> su_dm;  su_mixed -> su_cm_*    the data- and compute-matched baselines

SIZE   ?= laptop
SEED   ?= 0
O      ?= out/paper/seed$(SEED)
D      ?= data/bin/paper
PY     ?= .venv/bin/python

# ---- the recipe: the learning rates are the best of `make grid`, see results/grid.md ---------------------------------------

ALPHA     = 0.01
LR_SEED   = 5e-3
LR_LARGE  = 8e-3
LR_BRANCH = 4e-3
LR_BTX    = 2e-3
LR_DENSE  = 1e-3
LR_SU     = 2e-3
ifeq ($(SIZE),laptop)
SHAPE     = --n_embd 32 --n_layer 3 --n_head 2
D_FF      = 96
FACTS     = 200
S         = 12000
B         = 1000
F         = 1500
RUN       = --eval_windows 8 --dtype float32
EVALUATE  =
else ifeq ($(SIZE),tiny)
SHAPE     = --n_embd 16 --n_layer 2 --n_head 2 --block_size 32
D_FF      = 16
FACTS     = 10
S         = 4
B         = 4
F         = 8
RUN       = --eval_windows 1 --batch_size 2
PREPARE   = --train_tokens 5000 --val_tokens 800 --tasks 4
EVALUATE  = --tasks 4 --windows 2
else
$(error SIZE is laptop or tiny, not $(SIZE))
endif

# the sum of the three experts' data; the mixture of MoE finetuning, with more of what is hardest to learn
BRANCHES  = general=0.1,math=0.3,code=0.3,wiki=0.3
MIXTURE   = general=0.15,math=0.35,code=0.2,wiki=0.3

quarter  := $(shell expr $(F) / 4)
half     := $(shell expr $(F) / 2)
double   := $(shell expr $(F) \* 2)
phase_1  := $(shell expr $(B) \* 3)

# one thread and one precision for all, so that runs are alike and timed alike; no more jobs (-j) than cores
export OMP_NUM_THREADS = 1
COMMON    = $(RUN) --data_dir $(D) --seed $(SEED) --resume --out $@
TRAIN     = $(PY) train_expert.py $(COMMON)
FINETUNE  = $(PY) finetune_router.py $(COMMON) --init $<
EXPERTS   = $(O)/math.pt $(O)/code.pt $(O)/wiki.pt

# ---- the models -----------------------------------------------------------------------------------------------------------

SHORT     = switch sample top2 soft lb frozen blend split2of8 split4of8 hidden
MEDIUM    = sample top2 soft
MODELS    = seed large math code wiki soup dense_dm top2_mixed hidden_mixed su_dm \
            su_cm_flops su_cm_time su_cm_elapsed btx btx_nolb btx_sample \
            $(SHORT:%=%_short) $(MEDIUM:%=%_medium)

.PHONY: all
.SECONDARY:
all: $(O)/results.json $(O)/hard/results.json
.DELETE_ON_ERROR:

$(D)/switch/meta.json:
	$(PY) -m data.prepare --facts $(FACTS) $(PREPARE) --out $(D)

$(O)/seed.pt: $(D)/switch/meta.json
	$(TRAIN) --data general=0.4,math=0.2,code=0.2,wiki=0.2 $(SHAPE) --d_ff $(D_FF) --steps $(S) --lr $(LR_SEED)

# Llama-2 13B's part: from scratch, on the seed's data, with the active parameters of Top-2 (a feed-forward twice as wide)
$(O)/large.pt: $(D)/switch/meta.json
	$(TRAIN) --data general=0.4,math=0.2,code=0.2,wiki=0.2 $(SHAPE) --d_ff $$((2 * $(D_FF))) --steps $(S) --lr $(LR_LARGE)

$(EXPERTS): $(O)/%.pt: $(O)/seed.pt
	$(TRAIN) --init $< --data $*=0.9,general=0.1 --steps $(B) --lr $(LR_BRANCH)

$(O)/soup.pt: $(O)/seed.pt $(EXPERTS)
	$(PY) mix.py $^ --soup --out $@

# Dense (DM): the data of all branches, then the mixture of MoE finetuning
$(O)/dense_dm_1.pt: $(O)/seed.pt
	$(TRAIN) --init $< --data $(BRANCHES) --steps $(phase_1) --lr $(LR_DENSE)
$(O)/dense_dm.pt: $(O)/dense_dm_1.pt
	$(TRAIN) --init $< --data $(MIXTURE) --steps $(F) --lr $(LR_DENSE)

# sparse upcycling: N copies of the seed; (DM) the same two phases, (CM) the mixture alone, for what BTX cost
$(O)/su_mixed.pt: $(O)/seed.pt
	$(PY) mix.py $< $< $< $< --seed $(SEED) --out $@
$(O)/su_dm_1.pt: $(O)/su_mixed.pt
	$(FINETUNE) --data $(BRANCHES) --steps $(phase_1) --lr $(LR_SU) --alpha $(ALPHA)
$(O)/su_dm.pt: $(O)/su_dm_1.pt
	$(FINETUNE) --data $(MIXTURE) --steps $(F) --lr $(LR_SU) --alpha $(ALPHA)
$(O)/su_cm_flops.pt $(O)/su_cm_time.pt $(O)/su_cm_elapsed.pt: $(O)/su_cm_%.pt: $(O)/su_mixed.pt $(O)/su_dm.pt $(O)/btx.pt
	$(FINETUNE) --data $(MIXTURE) --lr $(LR_SU) --alpha $(ALPHA) \
	    --steps $$($(PY) -m experiments.budget $(O)/su_dm.pt --like $(O)/btx.pt --since $(O)/seed.pt --by $*)

# Branch-Train-MiX: mixed in one way or another, then finetuned for a short, a medium and the full length
MIX_switch    = --routing switch
MIX_sample    = --routing sample
MIX_soft      = --routing soft
MIX_blend     = --blend
MIX_split2of8 = --split 2 --top_k 2
MIX_split4of8 = --split 2 --top_k 4
MIX_hidden    = --router_init hidden --router_data general,math,code,wiki --data_dir $(D)
$(O)/%_mixed.pt: $(O)/seed.pt $(EXPERTS)
	$(PY) mix.py $^ $(MIX_$*) --seed $(SEED) --out $@

lr = $(or $(LR_$*),$(LR_BTX))
$(O)/%_short.pt: $(O)/%_mixed.pt
	$(FINETUNE) --data $(MIXTURE) --steps $(quarter) --lr $(lr) --alpha 0
$(O)/%_medium.pt: $(O)/%_mixed.pt
	$(FINETUNE) --data $(MIXTURE) --steps $(half) --lr $(lr) --alpha 0
$(O)/lb_short.pt: $(O)/top2_mixed.pt
	$(FINETUNE) --data $(MIXTURE) --steps $(quarter) --lr $(LR_BTX) --alpha 0.01
$(O)/frozen_short.pt: $(O)/top2_mixed.pt
	$(FINETUNE) --data $(MIXTURE) --steps $(quarter) --lr $(LR_BTX) --alpha 0 --train all-but-experts
$(O)/btx.pt: $(O)/top2_mixed.pt
	$(FINETUNE) --data $(MIXTURE) --steps $(F) --lr $(LR_BTX) --alpha $(ALPHA)
$(O)/btx_nolb.pt: $(O)/top2_mixed.pt
	$(FINETUNE) --data $(MIXTURE) --steps $(F) --lr $(LR_BTX) --alpha 0
# twice the tokens, as in the paper; not its equal compute, since one soft layer of three weighs more than one of 32
$(O)/btx_sample.pt: $(O)/sample_mixed.pt
	$(FINETUNE) --data $(MIXTURE) --steps $(double) --lr $(or $(LR_sample),$(LR_BTX)) --alpha $(ALPHA)

# ---- their scores ---------------------------------------------------------------------------------------------------------

BTM = --btm seed,math,code,wiki --btm_methods tfidf:1,tfidf:2,bayes:1,bayes:2
$(O)/results.json: $(MODELS:%=$(O)/%.pt)
	$(PY) evaluate.py $^ $(BTM) $(EVALUATE) --no-figures --data_dir $(D) --out $(O)
$(O)/hard/results.json: $(O)/btx_sample.pt
	$(PY) evaluate.py $^ --hard_sampling $(EVALUATE) --no-figures --data_dir $(D) --out $(O)/hard

# some of the models, for `make grid` and `make regimes`
WANT = seed math code wiki dense_dm su_dm top2_mixed btx
$(O)/some/results.json: $(WANT:%=$(O)/%.pt)
	$(PY) evaluate.py $^ $(EVALUATE) --no-figures --data_dir $(D) --out $(O)/some
