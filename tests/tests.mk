# Targets for whoever changes the code: tests, style, speed.
.PHONY: gpu-check gpu-measure bench test test-all torture lint
bench: $(DOMAINS) .venv/dev  ## speed, as ratios: out/bench.json, twelve to twenty-five minutes with nothing else running
	$(PY) -m experiments.bench --data_dir $(DATA)

gpu-check: .venv/dev  ## on a GPU: is everything right, and how fast? Five minutes; writes out/gpu.json
	$(MAKE) PRESET=gpu gpu-measure
gpu-measure:
	$(PY) -m experiments.gpu $(SHAPE) --d_ff $(D_FF) --batch_size $(BATCH) --seed_steps $(S) --branch_steps $(B) \
	    --finetune_steps $(F)

test: .venv/dev  ## the tests but for the long ones, two to three minutes
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not long"

test-all: .venv/dev  ## all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest

torture: .venv/ready  ## kill runs at random moments, many more times than the tests do
	rm -rf out/torture
	OMP_NUM_THREADS=1 $(PY) tests/torture.py kill out/torture 30
	OMP_NUM_THREADS=1 $(PY) tests/torture.py soak out/torture 500

lint: .venv/dev  ## ruff
	$(PY) -m ruff check .

.venv/dev: requirements-dev.txt .venv/ready
	.venv/bin/pip install -q -r requirements-dev.txt
	touch $@
