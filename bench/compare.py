"""quipu beside PyTorch, alternately in one run.

    python bench/compare.py step --quipu build/quipu --length 64
    python bench/compare.py step --quipu build/quipu --layers 6 --width 384 --batch 12 --length 256
    python bench/compare.py step --quipu build/quipu --length 256 --dtype bf16
    python bench/compare.py ops --quipu build/quipu --only softmax rope

step: a training step of GPT-2 (the 124M model if nothing else is said) with the same batch, length
and threads; each repeat runs one process of either, and the medians over repeats of their median
steps are compared. ops: single operations, forward and with backward, at the sizes of `quipu bench ops`.
Needs the Python of bench/peers/torch_step.py.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
OPS = ["layer_norm", "rms_norm", "gelu", "gelu_tanh", "softmax", "swiglu", "rope", "cross_entropy",
       "linear_cross_entropy", "attention"]


def run_json(command):
    return json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)


def median(rows, key, digits=4):
    return round(statistics.median(row[key] for row in rows), digits)


def config_of(o, folder):
    """A config.json of GPT-2 in other sizes."""
    path = pathlib.Path(folder) / "config.json"
    path.write_text(json.dumps(dict(
        model_type="gpt2", vocab_size=50257, n_positions=1024, n_layer=o.layers, n_embd=o.width,
        n_head=max(1, o.width // 64), resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)))
    return path


def step(o):
    common = ["--batch", o.batch, "--length", o.length, "--threads", o.threads, "--steps", o.steps]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        model = ["--config", config_of(o, folder)]
        for _ in range(o.repeats):
            ours.append(run_json([o.quipu, "bench", "step", "--json", "--precision", "bf16" if o.dtype == "bf16" else "fp32",
                                  *model, *common])["rows"][0])
            theirs.append(run_json([sys.executable, HERE / "peers" / "torch_step.py", "--keep-memory", "--dtype", o.dtype,
                                    "--layers", o.layers, "--width", o.width, *common]))
    a, b = median(ours, "seconds"), median(theirs, "seconds_per_step")
    print(json.dumps(dict(
        layers=o.layers, width=o.width, batch=o.batch, length=o.length, threads=o.threads, dtype=o.dtype,
        repeats=o.repeats, quipu_seconds=a, torch_seconds=b, speedup=round(b / a, 3),
        quipu_runs=[round(r["seconds"], 4) for r in ours], torch_runs=[r["seconds_per_step"] for r in theirs],
        quipu_parts=[median(ours, k) for k in ("forward_seconds", "backward_seconds", "optimiser_seconds")],
        torch_parts=[median(theirs, k) for k in ("forward", "backward", "optimizer")],
        quipu_peak_share=median(ours, "peak_share"), quipu_peak_mb=round(median(ours, "peak_bytes") / 2**20),
        torch_peak_mb=median(theirs, "peak_rss_mb"), torch_import_mb=median(theirs, "import_rss_mb"))))


def ops(o):
    print(f"{'operation':<22}{'size':>12}  {'pass':<9}{'quipu us':>10}{'PyTorch us':>12}{'ratio':>7}{'GB/s':>8}{'GFLOP/s':>9}"
          f"{'roofline':>9}")
    for name in o.only or OPS:
        theirs = run_json([sys.executable, HERE / "peers" / "torch_ops.py", "--keep-memory", "--threads", o.threads,
                           "--repeats", o.repeats, "--only", name])["seconds"]
        ours = run_json([o.quipu, "bench", "ops", "--json", "--threads", o.threads, "-r", o.repeats, "--only", name])["rows"]
        for row in theirs:
            for kind in ("forward", "both"):
                mine = next(r for r in ours if r["size"] == row["size"] and r["pass"] == kind)
                size = "x".join(map(str, row["size"]))
                print(f"{name:<22}{size:>12}  {kind:<9}{mine['seconds'] * 1e6:10.0f}{row[kind] * 1e6:12.0f}"
                      f"{row[kind] / mine['seconds']:7.2f}{mine['gbytes']:8.1f}{mine['gflops']:9.1f}"
                      f"{100 * mine['roofline_share']:8.0f}%", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = p.add_subparsers(dest="kind", required=True)
    s, q = kinds.add_parser("step"), kinds.add_parser("ops")
    for parser, repeats in (s, 3), (q, 7):
        parser.add_argument("--quipu", required=True)
        parser.add_argument("--threads", type=int, default=2)
        parser.add_argument("--repeats", type=int, default=repeats)
    s.add_argument("--batch", type=int, default=4)
    s.add_argument("--length", type=int, default=64)
    s.add_argument("--steps", type=int, default=5)
    s.add_argument("--layers", type=int, default=12)
    s.add_argument("--width", type=int, default=768)
    s.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: autocast of either")
    q.add_argument("--only", nargs="+", help="names of operations")
    o = p.parse_args()
    step(o) if o.kind == "step" else ops(o)


if __name__ == "__main__":
    main()
