# One model or all of them? One training seed: texts that are hard to assign, and answers that need two skills.
#   make -j2 -f experiments/one_or_all/recipe.mk SEED=20                    (pretrained seed: SEED=19 PRESET=pretrained)
PRESET ?= cpu
SEED   ?= 0
OUT    := out/one_or_all/$(PRESET)/seed$(SEED)
DATA   := data/bin/one_or_all/$(PRESET)
include Makefile
.DEFAULT_GOAL = row
# ---- data: the preset's domains; tolls, which the branch wiki learns, too; examples of answers that need two skills --
OURS     = out/one_or_all/$(PRESET)/texts
WRITE    = $(if $(filter cpu,$(PRESET)),--level 1 --tasks 200,--level 0 --tasks 80 --examples 3)
KINDS    = toll_math toll_code story_code
TASKS    = two_questions $(foreach kind,$(KINDS),$(kind) $(kind)_1 $(kind)_2) \
           $(foreach row,alone words text ended names chat,$(NAMES:%=$(row)_%))
PREPARE += --text $(foreach name,toll combined,$(name)=$(OURS)/$(name).jsonl) \
           --own_tasks $(foreach name,$(TASKS),$(name)=$(OURS)/$(name).jsonl)
$(DATA)/ready: $(OURS)/toll.jsonl
$(OURS)/toll.jsonl: experiments/one_or_all/texts.py; $(PY) -m experiments.one_or_all.texts $(@D) $(WRITE)
DATA_wiki     = wiki=65,toll=30
EXPERT_DATA   = $(or $(DATA_$*),$*=95),$(REPLAY)
FINETUNE_DATA = $(if $(filter cpu,$(PRESET)),general=14$(,)trivia=5,english=19),math=24,code=24,wiki=21,toll=12
, := ,
# ---- models NAME_STEPS_SHARE: STEPS steps of BTX, or as many FLOPs in sequence; SHARE % examples of each kind ---------
EXAMPLES_0 =
EXAMPLES_1 = ,combined=3.09   # 3 of 103.09, 1 % of each of the three kinds
EXAMPLES_5 = ,combined=17.65  # 15 of 117.65
STEPS = $(firstword $(subst _, ,$*))
SHARE = $(EXAMPLES_$(lastword $(subst _, ,$*)))
MIXED = --data $(FINETUNE_DATA)$(SHARE)
CHAIN = --steps $$($(PY) -m experiments.budget
LIKE  = --like $(OUT)/sharp_$*.pt --by chain --since
# learning rates of earlier grids (experiments/when/rates.md, records.md); a branch that trains again has average's
RATES = $(if $(filter cpu,$(PRESET)),random:1e-3 sharp:1e-3 average:1e-3 dense:1e-3 su:1e-3, \
          random:2e-4 sharp:1e-4 average:2e-4 dense:4e-4 su:4e-4)
LR    = --lr $(patsubst $(1):%,%,$(filter $(1):%,$(RATES)))
MOE   = $(FINETUNE) --alpha $(ALPHA) $(MIXED)
SHARPNESS =  # the most likely one
$(OUT)/random_%.pt:  $(OUT)/btx_mixed.pt;   $(MOE) --steps $(STEPS) $(call LR,random)
$(OUT)/sharp_%.pt:   $(OUT)/ridge_mixed.pt; $(MOE) --steps $(STEPS) $(call LR,sharp)
# asked afterwards: sharp rows at the rate of the average
$(OUT)/faster_%.pt:  $(OUT)/ridge_mixed.pt; $(MOE) --steps $(STEPS) $(call LR,average)
$(OUT)/su_%.pt:      $(OUT)/su_mixed.pt $(OUT)/sharp_%.pt
	$(MOE) $(CHAIN) $(OUT)/sharp_$*.pt $(LIKE) $(OUT)/seed.pt) $(call LR,su)
$(OUT)/average_%.pt: $(OUT)/average.pt $(OUT)/sharp_%.pt
	$(TRAIN) --init $< $(MIXED) $(CHAIN) $(OUT)/math.pt $(LIKE) $<) $(call LR,average)
$(OUT)/dense_%.pt:   $(OUT)/seed.pt $(OUT)/sharp_%.pt
	$(TRAIN) --init $< $(MIXED) $(CHAIN) $(OUT)/math.pt $(LIKE) $<) $(call LR,dense)
# a branch that reads its own text and the examples in place of the finetuning
$(OUT)/taught_math_%.pt: $(OUT)/math.pt $(OUT)/sharp_%.pt; $(call TEACH,math=95)
$(OUT)/taught_wiki_%.pt: $(OUT)/wiki.pt $(OUT)/sharp_%.pt; $(call TEACH,$(DATA_wiki))
TEACH = $(TRAIN) --init $< --data $(1),$(REPLAY)$(SHARE) $(CHAIN) $(OUT)/math.pt $(LIKE) $<) $(call LR,average)
# ---- scores ----------------------------------------------------------------------------------------------------------
MODELS_cpu = average btx_mixed ridge_mixed \
             $(foreach share,0 1 5,$(foreach name,random sharp average dense su,$(name)_770_$(share))) \
             taught_math_770_5 taught_wiki_770_5
# first those of the predictions; make -j1 goes in this order, make -j2 in another
MODELS_pretrained = sharp_53_0 sharp_53_5 average_53_5 dense_53_5 sharp_212_5 average_212_5 random_53_5 average_53_0 \
                    random_53_0 dense_53_0 taught_math_53_5 ridge_mixed su_53_5 su_53_0 sharp_212_0 average_212_0 \
                    taught_wiki_53_5 average btx_mixed
PART     = $(if $(filter cpu,$(PRESET)),small,pretrained)
MODELS   = $(MODELS_$(PRESET))
METHODS_cpu        = bayes:1,bayes:2,share:1,share:2,share:4,tfidf:1,tfidf:2
METHODS_pretrained = bayes:1,share:4
EVALUATE += --tasks $(if $(filter cpu,$(PRESET)),200,80) --windows 100
$(OUT)/scores/%/results.json: $(OUT)/%.pt; $(SCORE) $< --no_figures
# from a pretrained seed, only models without examples are asked after beginnings: that takes two fifths of the time
ifeq ($(PRESET),pretrained)
SHORT = $(DATA)_short
BEGUN = $(foreach row,alone words text ended names chat,$(DATA)/$(row)_%)
$(SHORT)/ready: $(DATA)/ready
	mkdir -p $(@D) && cp -r $(filter-out $(BEGUN),$(wildcard $(DATA)/*)) $(@D)
$(OUT)/scores/%_5/results.json: $(OUT)/%_5.pt $(SHORT)/ready; $(SCORE) $< --data_dir $(SHORT) --no_figures
endif
$(OUT)/scores/all/results.json: $(ALL); $(SCORE) $^ --btm seed,math,code,wiki --btm_methods $(METHODS_$(PRESET)) --no_figures
$(OUT)/scores/bounds/results.json: $(OUT)/scores/all/results.json
	$(PY) -m experiments.one_or_all.bounds $(ALL) --data_dir $(DATA) --scores $< --out $@
row: $(patsubst %,$(OUT)/scores/%/results.json,all bounds $(MODELS))
	$(PY) -m experiments.collect $^ --out experiments/one_or_all/runs/$(SEED)_$(PART).json
.PRECIOUS: $(patsubst %,$(OUT)/%.pt,$(MODELS) su_mixed)
.PHONY: row
