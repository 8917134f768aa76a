"""quipu's training step beside PyTorch's, alternately in one run.

    python bench/compare.py --quipu build/quipu --length 64
    python bench/compare.py --quipu build/quipu --length 256 --torch="--keep-memory"

Both train the GPT-2 124M model with the same batch, length and threads. Each repeat runs one process
of either; the medians over repeats of their median steps are compared. Needs the Python of
bench/peers/torch_step.py.
"""

import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def last_json(command):
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()
    return json.loads(lines[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--quipu", required=True)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--length", type=int, default=64)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--torch", default="--keep-memory", help="further options of torch_step.py")
    o = p.parse_args()
    sizes = ["--batch", str(o.batch), "--length", str(o.length), "--threads", str(o.threads), "--steps", str(o.steps)]
    ours, theirs = [], []
    for _ in range(o.repeats):
        ours.append(last_json([o.quipu, "bench", "step", "--preset", "gpt2", "--json", *sizes])["rows"][0])
        theirs.append(last_json([sys.executable, HERE / "peers" / "torch_step.py", *sizes, *shlex.split(o.torch)]))
    median = lambda rows, key: round(statistics.median(row[key] for row in rows), 4)
    a, b = median(ours, "seconds"), median(theirs, "seconds_per_step")
    print(json.dumps(dict(
        batch=o.batch, length=o.length, threads=o.threads, repeats=o.repeats, quipu_seconds=a, torch_seconds=b,
        speedup=round(b / a, 3), quipu_runs=[round(r["seconds"], 4) for r in ours],
        torch_runs=[r["seconds_per_step"] for r in theirs],
        quipu_parts=[median(ours, k) for k in ("forward_seconds", "backward_seconds", "optimiser_seconds")],
        torch_parts=[median(theirs, k) for k in ("forward", "backward", "optimizer")],
        quipu_peak_share=median(ours, "peak_share"), quipu_peak_mb=round(median(ours, "peak_bytes") / 2**20),
        torch_peak_mb=median(theirs, "peak_rss_mb"), torch_import_mb=median(theirs, "import_rss_mb"))))


if __name__ == "__main__":
    main()
