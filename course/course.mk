# The instructor's part of the assignment, see course/README.md.
.PHONY: handout grade autograder hints
handout: .venv/dev  ## the assignment without its solutions: out/handout and out/handout.zip
	$(PY) -m course.handout --out out/handout
grade: .venv/dev  ## points for SUBMISSION=folder, or for every folder and zip in SUBMISSIONS=folder
	$(PY) -m course.grade $(if $(SUBMISSION),"$(SUBMISSION)") $(if $(SUBMISSIONS),--each "$(SUBMISSIONS)") --out out/grades
autograder: .venv/dev  ## Gradescope's zip: out/autograder.zip
	$(PY) -m course.grade --autograder out/autograder.zip
hints: .venv/dev  ## course/hints.json anew, after a change of the checks or of course/mistakes.json
	$(PY) -m course.mistakes
