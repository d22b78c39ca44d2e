# The instructor's part of the assignment, see course/README.md.
.PHONY: handout grade autograder
HANDOUT    = out/handout
AUTOGRADER = out/autograder
WRITE      = $(PY) -c "import sys; from course import handout; handout.write_handout(sys.argv[1])"
handout: .venv/dev  ## the assignment without its solutions: out/handout and out/handout.zip
	@test ! -e $(HANDOUT) || { echo "$(HANDOUT) is there already; delete it first"; exit 2; }
	$(WRITE) $(HANDOUT)
	$(PY) -m zipfile -c $(HANDOUT).zip $(HANDOUT)
grade: .venv/dev  ## points for SUBMISSION=folder, or for every folder and zip in SUBMISSIONS=folder
	$(PY) -m course.grade $(if $(SUBMISSION),"$(SUBMISSION)") $(if $(SUBMISSIONS),"$(SUBMISSIONS)"/*) --out out/grades
autograder: .venv/dev  ## Gradescope's zip: out/autograder.zip
	rm -rf $(AUTOGRADER)
	$(WRITE) $(AUTOGRADER)
	cp course/gradescope/* $(AUTOGRADER)
	$(PY) -m zipfile -c $(AUTOGRADER).zip $(AUTOGRADER)/*
