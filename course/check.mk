# The student's part of the assignment, see its README.
.PHONY: check check-demo experiment
# STAGE=2 and STAGE=stage2 are the same.
check: .venv/ready  ## how far you are: the checks and points of STAGE=2, or of all stages
	@$(PY) -m course.check $(if $(STAGE),--stage $(STAGE))
check-demo: .venv/ready $(DATA)/ready  ## make demo with what you wrote, in a fresh handout, out/check
	@rm -rf out/check
	@$(PY) -m course.check --write out/check
	@cp -r data/start out/check/data/start
	@$(MAKE) --no-print-directory -C out/check -o .venv/ready -o $(abspath $(DATA))/ready demo \
	  PY=$(abspath $(PY)) DATA=$(abspath $(DATA))

# EXPERIMENT.md: three runs of each variant, named VARIANT_sSEED. A variant is named after what differs, NAME-VALUE.
VARIANTS_1 = random-0 random-50 random-200 hidden-0 hidden-50 hidden-200
VARIANTS_2 = alpha-0 alpha-0.01 alpha-0.1 alpha-1
VARIANTS_3 = steps-25 steps-50 steps-100 steps-200
MY_SEEDS  ?= $(STUDENT)1 $(STUDENT)2 $(STUDENT)3
MY_FOLDER  = out/experiment$(EXPERIMENT)-$(STUDENT)
MY_STARTS  = $(foreach s,$(MY_SEEDS),$(if $(filter 1,$(EXPERIMENT)),$(MY_FOLDER)/hidden-0_s$s.pt) $(MY_FOLDER)/random-0_s$s.pt)
MY_RUNS    = $(foreach s,$(MY_SEEDS),$(VARIANTS_$(EXPERIMENT):%=$(MY_FOLDER)/%_s$s.pt))
my_variant = $(firstword $(subst _s, ,$*))
my_value   = $(lastword $(subst -, ,$(my_variant)))
my_seed    = $(lastword $(subst _s, ,$*))
my_start   = $(MY_FOLDER)/$(if $(filter hidden-%,$*),hidden,random)-0_s$(my_seed).pt
experiment: $(MY_FOLDER)/results.json  ## EXPERIMENT=1, 2 or 3 with seeds of your own, STUDENT=12345
	$(PY) -m course.table $<
$(MY_FOLDER)/results.json: $(MY_RUNS)
	$(PY) evaluate.py $^ --data_dir $(DATA) --tasks 200 --windows 50 --no_figures --out $(@D)
$(MY_FOLDER)/random-0_s%.pt: $(RECORDED) $(DATA)/ready
	$(PY) mix.py $(RECORDED) --seed $* --out $@
$(MY_FOLDER)/hidden-0_s%.pt: $(RECORDED) $(DATA)/ready
	$(PY) mix.py $(RECORDED) --router_data general,math,code,wiki --data_dir $(DATA) --seed $* --out $@
$(MY_FOLDER)/%.pt: $(MY_STARTS)
	TQDM_DISABLE=1 $(PY) finetune_router.py --data_dir $(DATA) --data $(FINETUNE_DATA) --lr $(LR_BTX) --eval_every 50 \
	  --init $(my_start) --steps $(if $(filter alpha-%,$*),150,$(my_value)) \
	  --alpha $(if $(filter alpha-%,$*),$(my_value),0.01) --seed $(my_seed) --out $@
ifneq ($(filter experiment,$(MAKECMDGOALS)),)
$(if $(and $(STUDENT),$(VARIANTS_$(EXPERIMENT))),,$(error name both: make experiment EXPERIMENT=2 STUDENT=12345))
endif
