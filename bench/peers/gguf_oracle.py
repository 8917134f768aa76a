"""How right a GGUF model is: top-1 agreement and perplexity against the oracle that makes every weight an
f32 and runs transformers, over windows of real text.

    python3 bench/peers/gguf_oracle.py MODEL.gguf TEXT oracle.safetensors [--windows 20] [--length 512]
    quipu verify MODEL.gguf --reference oracle.safetensors --tolerance 2e-3
    python3 bench/peers/gguf_oracle.py MODEL.gguf --llama LIBRARIES LLAMA_CPP_PYTHON oracle.safetensors

The first writes input_ids, top1 [B, T] and nll [B, T - 1]; the second measures quipu against it; the third
llama.cpp, whose shared libraries are in the folder LIBRARIES, by the binding in LLAMA_CPP_PYTHON (the folder
that holds llama_cpp). Needs torch, transformers, gguf, safetensors.
"""
import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def report(agree, count, nll, reference):
    ppl, expected = np.exp(np.mean(nll)), np.exp(np.mean(reference))
    print(f"top-1 agreement {100 * agree / count:.2f}% of {count}, perplexity {ppl:.4f}, "
          f"the oracle's {expected:.4f} ({100 * (ppl / expected - 1):+.3f}%)")


def judge(logits, ids):
    """Of one window: top-1 and the negative log likelihood of each next token."""
    log = torch.log_softmax(logits.double(), -1)
    return logits.argmax(-1), -log[:-1].gather(1, ids[1:, None])[:, 0]


def oracle(a):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(a.model).resolve()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    ids = torch.tensor(tokenizer(Path(a.text).read_text(), add_special_tokens=False).input_ids)
    ids = ids[: a.windows * a.length].reshape(a.windows, a.length)
    top1, nll = torch.zeros_like(ids), torch.zeros(a.windows, a.length - 1)
    with torch.no_grad():
        for i in range(a.windows):
            top1[i], nll[i] = judge(model(ids[i : i + 1]).logits[0], ids[i])
            print(f"\r{i + 1}/{a.windows}", end="", file=sys.stderr)
    save_file({"input_ids": ids, "top1": top1, "nll": nll}, a.out)
    print(f"\nperplexity {nll.double().mean().exp():.4f}")


def llama(a):
    os.environ["LLAMA_CPP_LIB_PATH"] = a.llama[0]
    sys.path.insert(0, a.llama[1])
    from llama_cpp import Llama

    reference = load_file(a.text)
    ids = reference["input_ids"]
    model = Llama(a.model, n_ctx=ids.shape[1], n_batch=ids.shape[1], logits_all=True, verbose=False, n_threads=2,
                  n_threads_batch=2)
    agree, nll = 0, []
    for i in range(len(ids)):
        model.reset()
        model.eval(ids[i].tolist())
        logits = torch.tensor(np.array(model.scores[: ids.shape[1]]))
        top1, each = judge(logits, ids[i])
        agree += int((top1 == reference["top1"][i]).sum())
        nll.append(each.numpy())
    report(agree, ids.numel(), np.concatenate(nll), reference["nll"].double().numpy())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("text", help="text, or with --llama the oracle's file")
    p.add_argument("out", nargs="?")
    p.add_argument("--windows", type=int, default=20)
    p.add_argument("--length", type=int, default=512)
    p.add_argument("--llama", nargs=2, metavar=("LIBRARIES", "BINDING"))
    a = p.parse_args()
    llama(a) if a.llama else oracle(a)


if __name__ == "__main__":
    main()
