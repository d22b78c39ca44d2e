# The assignment: `make handout` and `make grade` are the instructor's, `make check` the student's. See course/.
.PHONY: handout grade autograder check
handout: .venv/ready  ## the assignment without its solutions: out/handout and out/handout.zip
	$(PY) -m course.handout --out out/handout

grade: .venv/ready  ## points for SUBMISSION=folder, or for every folder in SUBMISSIONS=folder
	$(PY) -m course.grade $(if $(SUBMISSIONS),$(SUBMISSIONS)/*/,$(SUBMISSION)) --out out/grades

autograder: .venv/ready  ## Gradescope's zip: out/autograder.zip
	$(PY) -m course.grade --autograder out/autograder.zip

check: .venv/ready  ## (students) the public checks of STAGE=2, or of all stages
	@$(PY) -m course.check $(STAGE)
