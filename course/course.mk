# The instructor's part of the assignment, see course/README.md.
.PHONY: handout grade autograder
handout: .venv/ready  ## the assignment without its solutions: out/handout and out/handout.zip
	$(PY) -m course.handout --out out/handout
grade: .venv/ready  ## points for SUBMISSION=folder, or for every folder in SUBMISSIONS=folder
	$(PY) -m course.grade $(if $(SUBMISSIONS),$(SUBMISSIONS)/*/,$(SUBMISSION)) --out out/grades
autograder: .venv/ready  ## Gradescope's zip: out/autograder.zip
	$(PY) -m course.grade --autograder out/autograder.zip
