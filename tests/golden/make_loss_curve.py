"""Make a slow check: 200 AdamW steps of a ten-million-parameter llama, to be replayed elsewhere.

    python make_loss_curve.py OUT                     structured random ids
    python make_loss_curve.py OUT --text FILE         the bytes of a text
    python make_loss_curve.py OUT --steps 20 --threads 2

writes into the folder OUT

    config.json, model.safetensors     the model before training, as save_pretrained writes it
    batches.safetensors                laid out as the files of make_adamw.py:
        input_ids   [steps, 4, 128] int64, one batch for each step
        lr          [steps] float32, the learning rate of each step
        losses      [steps] float32, the mean next-token cross-entropy before each step's update
        metadata    "attrs": JSON with every setting

The run is PyTorch's in float32: linear warm-up over 50 steps, then cosine to zero; clipping and decay
as in make_adamw.py. This schedule keeps rounding from growing: the same run in float64 keeps every
loss of 200 steps within 3e-4 (2e-5 for the first 40). Nothing of it is committed; the same arguments
and versions give the same batches and weights.

Random ids have something to learn: half of a sequence follows a fixed successor of each token, a
third repeats what stood sixteen places before, the rest jumps and favours small ids.

Needs torch, transformers and safetensors; a few minutes on two cores.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from common import loss_of, write
from make_adamw import ADAMW, optimiser

BATCH, LENGTH, VOCAB, USED = 4, 128, 4096, 256
SETTINGS = ADAMW | dict(lr=1e-3, warmup=50)
CONFIG = LlamaConfig(vocab_size=VOCAB, hidden_size=320, intermediate_size=1152, num_hidden_layers=6,
                     num_attention_heads=5, num_key_value_heads=5, max_position_embeddings=256,
                     tie_word_embeddings=True)


def structured(steps, draw):
    shape = (steps * BATCH, LENGTH)
    successor = torch.randperm(USED, generator=draw)
    jump = (USED * torch.rand(shape, generator=draw) ** 3).long()
    kind = torch.randint(6, shape, generator=draw)
    ids = jump.clone()
    for t in range(1, LENGTH):
        follow = successor[ids[:, t - 1]]
        repeat = ids[:, max(0, t - 16)]
        ids[:, t] = torch.where(kind[:, t] < 3, follow, torch.where(kind[:, t] < 5, repeat, jump[:, t]))
    return ids.view(steps, BATCH, LENGTH)


def of_text(path, steps, draw):
    text = torch.tensor(list(path.read_bytes()))
    starts = torch.randint(len(text) - LENGTH + 1, (steps * BATCH, 1), generator=draw)
    return text[starts + torch.arange(LENGTH)].view(steps, BATCH, LENGTH)


def rate(step, steps):
    warm = min(1, (step + 1) / SETTINGS["warmup"])
    return SETTINGS["lr"] * warm * (1 + math.cos(math.pi * step / steps)) / 2


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("out", type=Path)
    options.add_argument("--text", type=Path)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--threads", type=int, default=1)
    o = options.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(3)
    draw = torch.Generator().manual_seed(4)
    batches = of_text(o.text, o.steps, draw) if o.text else structured(o.steps, draw)

    model = AutoModelForCausalLM.from_config(CONFIG, attn_implementation="eager").train()
    model.save_pretrained(o.out)
    (o.out / "generation_config.json").unlink()
    optimizer = optimiser(model, SETTINGS)
    rates, losses, start = [], [], time.time()
    for step, ids in enumerate(batches):
        rates.append(rate(step, o.steps))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        loss = loss_of(model(ids, use_cache=False).logits, ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["clip"])
        optimizer.step()
        losses.append(loss.item())
        if step % 10 == 0 or step == o.steps - 1:
            print(f"step {step:4}  loss {loss:.4f}  {(time.time() - start) / (step + 1):.2f} s/step", flush=True)
    tensors = dict(input_ids=batches, lr=torch.tensor(rates), losses=torch.tensor(losses))
    write(o.out / "batches.safetensors", tensors, SETTINGS)
    print(f"{model.num_parameters()} parameters")


if __name__ == "__main__":
    main()
