# The student's part of the assignment, see its README.
.PHONY: check
# STAGE=2 and STAGE=stage2 are the same. A failing check is no error of make: || true
check: .venv/ready  ## how far you are: the checks of STAGE=2, or of all stages
	@.venv/bin/pip install -q pytest
	@$(PY) -m pytest --tb=short --show-capture=no course/test_stages.py $(if $(STAGE),-k stage$(STAGE:stage%=%)) || true
