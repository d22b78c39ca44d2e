# The student's part of the assignment; see its README.
.PHONY: check experiment class-row submit
check: .venv/ready  ## run all checks, or those of STAGE=2, or one, CHECK=stage2_mix (with DEBUG=1 in the foreground)
ifdef DEBUG
	@grep -o '"stage[1-5][^"]*"' course/assignment.json | grep -qxF '"$(CHECK)"' || \
	  { echo "CHECK=$(CHECK): name one check that make check lists, such as CHECK=stage1_gates" >&2; exit 2; }
	@$(PY) -c "import torch; from course import sandbox, stages; torch.manual_seed(sandbox.derive_seed(0, '$(CHECK)')); stages.$(CHECK)(); print('right')"
else
	@$(PY) -m course.check --only "$(or $(CHECK),$(STAGE))"
endif
MAKE_ROWS     = bash course/experiment.sh $(PY) $(DATA)
STUDENT_SEEDS = $(STUDENT)1 $(STUDENT)2 $(STUDENT)3
RUNS          = out/experiment$(EXPERIMENT)-$(STUDENT)
IS_NUMBER     = echo "$(STUDENT)" | grep -qxE '[0-9]{1,17}'
experiment: $(DATA)/ready  ## run EXPERIMENT=1, 2, 3 or 4 with your own seeds, STUDENT=12345
	@$(IS_NUMBER) && test -f "course/experiment$(EXPERIMENT).txt" || \
	  { echo "EXPERIMENT is 1 to 4, STUDENT is in digits: make experiment EXPERIMENT=2 STUDENT=12345" >&2; exit 2; }
	@mkdir -p $(RUNS)
	@$(PY) -m course.variants $(EXPERIMENT) $(STUDENT) > $(RUNS)/variants.txt
	@grep '^#' $(RUNS)/variants.txt || true
	@$(MAKE_ROWS) $(RUNS) 200 "$(STUDENT_SEEDS)" $(RUNS)/variants.txt
class-row: $(DATA)/ready  ## your row of the class table, course/row.txt, with your own seeds, STUDENT=12345
	@$(IS_NUMBER) || { echo "give your number, in digits: make class-row STUDENT=12345" >&2; exit 2; }
	@$(MAKE_ROWS) "out/class-$(STUDENT)" 400 "$(STUDENT_SEEDS)" course/row.txt
submit: .venv/ready  ## write out/submission.zip: your files, and others if you name them, FILES="report.pdf ..."
	@for file in $(FILES); do test -f "$$file" || { echo "there is no $$file" >&2; exit 2; }; done
	@mkdir -p out
	@$(PY) -m zipfile -c out/submission.zip model.py mix.py finetune_router.py $(wildcard checks.py) $(FILES)
	@$(PY) -m zipfile -l out/submission.zip
