"""Seconds per batch of sentence vectors with PyTorch and onnxruntime, on the CPU.

    python embed.py FOLDER --batch 1 32 --length 16 32 128 --threads 2

FOLDER: a BERT-like encoder of Hugging Face (all-MiniLM-L6-v2). Random ids, no padding, mean of the
positions, normalised. PyTorch runs transformers' model with fused scaled_dot_product_attention, in
inference mode, flushed denormals; onnxruntime runs the same model exported with a dynamic batch, all
graph optimisations on, its spinning threads as they come. Prints a line for each: medians over repeats.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch
from transformers import AutoModel


class Sentence(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        mask = mask[..., None].to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))


def median(call, least):
    call()
    times, end = [], time.perf_counter() + least
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--length", type=int, nargs="+", default=[32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--onnx", help="keep the exported file here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    model = Sentence(AutoModel.from_pretrained(args.folder, attn_implementation="sdpa")).eval()
    path = Path(args.onnx or tempfile.mkdtemp() + "/model.onnx")
    if not path.exists():
        ids = torch.ones(2, 8, dtype=torch.long)
        torch.onnx.export(model, (ids, torch.ones_like(ids)), path, input_names=["ids", "mask"], output_names=["vectors"],
                          dynamic_axes={"ids": {0: "B", 1: "T"}, "mask": {0: "B", 1: "T"}}, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for batch in args.batch:
        for length in args.length:
            ids = torch.arange(batch * length).reshape(batch, length) * 7919 % 30522
            mask = torch.ones_like(ids)
            feed = {"ids": ids.numpy(), "mask": mask.numpy()}
            with torch.inference_mode():
                ours = median(lambda: model(ids, mask), args.seconds)
                off = (model(ids, mask).numpy() - session.run(None, feed)[0]).max()
            theirs = median(lambda: session.run(None, feed), args.seconds)
            print(f"batch {batch:3} length {length:4}  torch {ours * 1e3:8.3f} ms  onnxruntime {theirs * 1e3:8.3f} ms"
                  f"  (they differ by {off:.1e})", flush=True)
