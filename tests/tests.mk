# Targets for whoever changes the code: tests, style, speed.
.PHONY: test test-all lint bench
TEST = $(PY) -m pytest -n 2 --dist worksteal  # two tests at a time, each process with models of its own
test: .venv/dev  ## the tests, but for the long ones: two ranks, make paper, submissions and others
	$(TEST) -m "not long"
test-all: .venv/dev  ## all tests
	$(TEST)
lint: .venv/dev  ## ruff
	$(PY) -m ruff check .
bench: .venv/dev  ## speed as ratios, and what no communication is worth; nothing else should run
	$(PY) -m torch.distributed.run --standalone --nproc_per_node=2 -m experiments.bench
.venv/dev: requirements-dev.txt .venv/ready
	.venv/bin/pip install -q -r requirements-dev.txt
	touch $@
