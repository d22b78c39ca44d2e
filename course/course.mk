# The instructor's part of the assignment; see course/README.md.
.PHONY: handout grade autograder leaderboard
HANDOUT    = out/handout
AUTOGRADER = out/autograder
GRADES     = out/grades
WRITE      = $(PY) -c "import sys; from course import handout, mutants; handout.write_handout(sys.argv[1], $(1))"
handout: .venv/dev  ## the assignment without its solutions: out/handout and out/handout.zip
	@test ! -e $(HANDOUT) || { echo "$(HANDOUT) is there already; delete it first"; exit 2; }
	$(call WRITE,mutants.choose(handout.versions(), 0)) $(HANDOUT)
	@printf '\n*This handout is version %s of %s.*\n' "$$(git describe --always --dirty 2> /dev/null || echo unknown)" \
	  "$$(date +%F)" >> $(HANDOUT)/README.md
	$(PY) -m zipfile -c $(HANDOUT).zip $(HANDOUT)
grade: .venv/dev  ## grade SUBMISSION=folder, or every folder and zip in SUBMISSIONS=folder; writes to GRADES=folder
	$(PY) -m course.grade $(if $(SUBMISSION),"$(SUBMISSION)") $(if $(SUBMISSIONS),"$(SUBMISSIONS)"/*) --out "$(GRADES)"
autograder: .venv/dev  ## Gradescope's zip: out/autograder.zip
	rm -rf $(AUTOGRADER)
	$(call WRITE,handout.versions()) $(AUTOGRADER)
	cp course/gradescope/* $(AUTOGRADER)
	$(PY) -m zipfile -c $(AUTOGRADER).zip $(AUTOGRADER)/*
LEADERBOARD = out/leaderboard
leaderboard: $(DATA)/ready  ## the class table, best row first, from all *row*.txt below ROWS=folder; seeds 4, 5 and 6
	@find "$(ROWS)" -type f -name '*row*.txt' 2> /dev/null | grep -q . || \
	  { echo "ROWS=$(ROWS): there is no *row*.txt; name the folder of the rows: make leaderboard ROWS=in" >&2; exit 2; }
	@find "$(ROWS)" -type f -name '*row*.txt' -exec $(MAKE_ROWS) $(LEADERBOARD) 400 "4 5 6" {} +
	@{ head -n 2 $(LEADERBOARD)/table.md; tail -n +3 $(LEADERBOARD)/table.md | LC_ALL=C sort -t '|' -k 10,10; \
	  echo; echo "Seeds 4, 5 and 6, version $$(git describe --always --dirty 2> /dev/null || echo unknown)"; } \
	  | tee $(LEADERBOARD)/class.md
