# Targets for people who change the code: tests and style
.PHONY: test test-all lint bench
TEST = $(PY) -m pytest -n 2 --dist worksteal  # two tests at a time; each process has its own models
test: .venv/dev  ## all tests except the long ones (two ranks, make paper, submissions and others)
	$(TEST) -m "not long"
test-all: .venv/dev  ## all tests
	$(TEST)
lint: .venv/dev  ## check the style with ruff
	$(PY) -m ruff check .
bench: .venv/ready  ## compare the time of training steps: readable, --fast, dense, Mixtral; two minutes
	$(PY) -m experiments.bench --device $(DEVICE)
.venv/dev: requirements-dev.txt .venv/ready
	.venv/bin/pip install -q -r requirements-dev.txt
	touch $@
