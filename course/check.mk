# The student's part of the assignment, see its README.
.PHONY: check experiment
check: .venv/ready  ## how far you are: STAGE=2, CHECK=stage2_mix, or all; with CHECK also DEBUG=1, in the foreground
ifdef DEBUG
	@$(PY) -c "import torch; torch.manual_seed(0); from course import stages; stages.$(CHECK)(); print('right')"
else
	@$(PY) -m course.check --only "$(or $(CHECK),$(STAGE))"
endif
experiment: $(DATA)/ready  ## EXPERIMENT=1, 2 or 3 with seeds of your own, STUDENT=12345
	@bash course/experiment.sh $(PY) $(DATA) $(EXPERIMENT) $(STUDENT)
