"""Folders that `quipu convert` makes of GGUF files, as transformers loads them.

    python bench/peers/converted.py build/quipu [MODEL.gguf TEXT]

Each of tests/golden/gguf: AutoModel's logits (of encoders: hidden states) beside those in the golden folder that the
file was made from. MODEL.gguf: AutoTokenizer's ids of the lines of TEXT, with what stands around them, and AutoModel's
logits of the first of them, beside quipu's from the file itself. Needs torch, transformers and safetensors.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

GOLDEN = Path(__file__).resolve().parents[2] / "tests/golden"
disable_progress_bar()
set_verbosity_error()


def run(*arguments, text=None):
    return subprocess.run(arguments, check=True, capture_output=True, input=text).stdout.decode()


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def check_golden(quipu, path, folder):
    run(quipu, "convert", str(path), "--out", folder, "-q")
    reference = load_file(GOLDEN / "models" / path.stem / "reference.safetensors")
    ids = reference["input_ids"]
    with torch.no_grad():
        if "logits" in reference:
            model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
            return difference(model(ids, use_cache=False).logits, reference["logits"])
        mask = torch.arange(ids.shape[1])[None] < reference["lengths"][:, None]
        hidden = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()(
            ids, attention_mask=mask.long(), token_type_ids=reference["token_type_ids"]).last_hidden_state
        return difference(hidden[mask], reference["hidden"][mask])


def check_model(quipu, path, text, folder):
    run(quipu, "convert", path, "--out", folder, "-q")
    lines = [line for line in Path(text).read_text().split("\n") if line.strip()]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = tokenizer(lines, split_special_tokens=True).input_ids
    ours = run(quipu, "tokenize", "-m", path, text=("\n".join(lines) + "\n").encode()).split("\n")[:-1]
    ours = [[int(i) for i in line.split()] for line in ours]
    same = sum(a == b for a, b in zip(ours, theirs))
    print(f"{path}: ids of {same} of {len(lines)} lines the same")
    ids = torch.tensor([theirs[max(range(len(lines)), key=lambda i: len(theirs[i]))][:64]])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
    save_file({"input_ids": ids, "logits": logits}, folder + "/reference.safetensors")
    found = json.loads(run(quipu, "verify", path, "--reference", folder + "/reference.safetensors", "--tolerance", "1",
                           "--json"))
    print(f"{path}: logits of {ids.shape[1]} tokens differ by {found['errors']['logits']:.1e}")


def main():
    for path in sorted((GOLDEN / "gguf").glob("*.gguf")):
        with tempfile.TemporaryDirectory() as folder:
            print(f"{path.stem:20} {check_golden(sys.argv[1], path, folder):.1e}", flush=True)
    if len(sys.argv) > 2:
        with tempfile.TemporaryDirectory() as folder:
            check_model(*sys.argv[1:4], folder)


if __name__ == "__main__":
    main()
