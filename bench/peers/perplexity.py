"""The perplexity that `quipu eval --no-special` prints, computed by transformers over the same windows.

    python bench/peers/perplexity.py MODEL TEXT [--length 1024] [--stride 768] [--dtype float32] [--batch 4]
        [--onednn] [--share I N]

MODEL is a folder. A window of `length` tokens moves on by `stride` and counts the tokens that no window before it held.
It takes long: --onednn takes oneDNN's products, which are twice as fast as MKL's on some processors; --share counts
batch I of each N only, for several processes with a thread each, whose nats and tokens are then to be added.
Needs torch and transformers.
"""

import argparse
import math
import pathlib
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def windows(count, length, stride):
    """(begin, first counted, end) of each."""
    seen, begin = 1, 0
    while seen < count:
        end = min(begin + length, count)
        first = max(seen, begin + 1)
        if first < end:
            yield begin, first, end
        seen = end
        begin += stride


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model")
    p.add_argument("text", type=pathlib.Path)
    p.add_argument("--length", type=int, default=1024)
    p.add_argument("--stride", type=int, default=768)
    p.add_argument("--dtype", default="float32")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--onednn", action="store_true")
    p.add_argument("--share", type=int, nargs=2, default=(0, 1))
    o = p.parse_args()
    if o.onednn:
        torch.nn.functional.linear = lambda x, w, b=None: torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
    tokenizer = AutoTokenizer.from_pretrained(o.model)
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=getattr(torch, o.dtype)).eval()
    ids = tokenizer(o.text.read_text(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids = torch.tensor(ids)
    total, tokens, start = 0.0, 0, time.perf_counter()
    rows = list(windows(len(ids), o.length, o.stride))
    for at in range(o.share[0] * o.batch, len(rows), o.share[1] * o.batch):
        some = rows[at:at + o.batch]
        batch = torch.zeros(len(some), max(end - begin for begin, _, end in some), dtype=torch.long)
        for r, (begin, _, end) in enumerate(some):
            batch[r, :end - begin] = ids[begin:end]
        with torch.no_grad():
            logits = model(input_ids=batch, use_cache=False).logits
        for r, (begin, first, end) in enumerate(some):
            mine, wanted = logits[r, first - 1 - begin:end - 1 - begin], ids[first:end]
            total += torch.nn.functional.cross_entropy(mine, wanted, reduction="none").double().sum().item()
            tokens += end - first
        print(f"\r{tokens} of {len(ids)} tokens, {math.exp(total / tokens):.4f}, "
              f"{tokens / (time.perf_counter() - start):.0f} tokens/s", end="", file=sys.stderr, flush=True)
    print(f"\nperplexity {math.exp(total / tokens):.6f}: {total:.6f} nats, {tokens} tokens, of {len(rows)} windows")


if __name__ == "__main__":
    main()
