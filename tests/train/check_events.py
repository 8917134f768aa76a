"""What TensorBoard itself reads from the event files of a training.

    pip install tensorboard
    quipu train ... --out DIR --tensorboard --histograms 10
    python tests/train/check_events.py DIR

Compares every scalar with DIR/log.jsonl, and looks at texts and histograms.
"""

import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PAIRS = {"train/loss": "loss", "train/learning_rate": "lr", "train/grad_norm": "grad_norm", "validation/loss": "validation_loss"}

folder = pathlib.Path(sys.argv[1])
events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
events.Reload()
lines = [json.loads(line) for line in open(folder / "log.jsonl")]
for tag, key in PAIRS.items():
    logged = {line["step"]: line[key] for line in lines if key in line}
    read = {e.step: e.value for e in events.Scalars(tag)} if tag in events.Tags()["scalars"] else {}
    assert read.keys() == logged.keys(), f"{tag}: steps differ"
    assert all(abs(read[s] - logged[s]) <= 1e-6 * abs(logged[s]) for s in read), f"{tag}: values differ"
    print(f"{tag}: {len(read)} steps")
for tag in events.Tags()["tensors"]:
    texts = events.Tensors(tag)
    print(f"{tag}: {len(texts)} texts, {len(texts[-1].tensor_proto.string_val[0].decode())} characters in the last")
for tag in events.Tags()["histograms"]:
    for e in events.Histograms(tag):
        h = e.histogram_value
        assert sum(h.bucket) == h.num and h.bucket_limit[-1] == h.max and h.min <= h.max, f"{tag}: step {e.step}"
print(f"{len(events.Tags()['histograms'])} tags of histograms")
