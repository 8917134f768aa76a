"""quipu's ids beside those of `tokenizers`, text by text, and both speeds with one thread.

    python bench/tokenizer_ids.py --quipu build/quipu [--mega 100] [--text FILE]... TOKENIZER...

TOKENIZER is a tokenizer.json (or a GGUF file, with --rebuilt FILE.json: the same one written by quipu is read by the
package). The text is that of the files, mixed with lines made of all scripts that Unicode has (control characters,
combining marks, emoji, right to left, private use, long words), repeated to the size. Every line is a text. Prints the
ids compared, those that differ (the first lines are shown), MB/s of both. Needs tokenizers and numpy.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import numpy as np
from tokenizers import Tokenizer

CHUNK = 8_000_000  # bytes of text at once


def scripts():
    """Assigned code points by the first word of their names: mostly, their script."""
    table = {}
    for c in range(0x20, 0x30000):
        char = chr(c)
        if unicodedata.category(char) not in ("Cn", "Cs", "Co"):
            table.setdefault(unicodedata.name(char, "CONTROL").split(" ")[0], []).append(char)
    return [v for v in table.values() if len(v) > 2]


def generated(size, seed):
    """Lines of mixed scripts."""
    rng = random.Random(seed)
    tables = scripts()
    marks = [chr(c) for c in range(0x300, 0x370)] + ["\u0323", "\u05b4", "\u0651", "\u094d", "\u3099", "\u20dd"]
    odd = ["\u200d", "\u200b", "\ufeff", "\u00ad", "\u202e", "\u2028", "\u0085", "\xa0", "\u3000", "\t", "\r", "\x0b", "\x0c", "\x01", "\x7f", "\ue000", "\U000f0000", "\ufffd"]
    emoji = ["👩\u200d👩\u200d👧\u200d👦", "👍🏽", "❤\ufe0f", "🇩🇪", "🏴\U000e0067\U000e0062\U000e007f", "☺\ufe0e", "1\ufe0f\u20e3"]
    words = ["the ", "it's ", "don't", " 3.14", "1234567", "\u2581", "##ing", "</w>", "<0x0A>", "<s>", "[CLS]", "<|endoftext|>", "...", "  ", "    ", "İstanbul ", "ΣΊΣΥΦΟΣ ", "ﬁ", "e\u0301"]
    out, total = [], 0
    while total < size:
        parts = []
        for _ in range(rng.randrange(1, 12)):
            kind = rng.random()
            if kind < 0.45:
                table = rng.choice(tables)
                parts.append("".join(rng.choice(table) for _ in range(rng.randrange(1, 9))))
                parts.append(rng.choice((" ", " ", "", ", ")))
            elif kind < 0.6:
                parts.append("".join(rng.choice("etaoinshrdluETAOIN") + rng.choice(marks) * rng.randrange(0, 2) for _ in range(rng.randrange(1, 7))))
            elif kind < 0.75:
                parts.append(rng.choice(words))
            elif kind < 0.85:
                parts.append(rng.choice(odd) * rng.randrange(1, 3))
            elif kind < 0.95:
                parts.append(rng.choice(emoji))
            elif kind < 0.99:
                parts.append(chr(rng.randrange(0x4E00, 0x9FA0)) * rng.randrange(1, 30))
            else:
                parts.append(rng.choice("aλя結") * rng.randrange(50, 400))
        line = "".join(parts).replace("\n", " ").encode()
        out.append(line)
        total += len(line) + 1
    return b"\n".join(out) + b"\n"


def texts(files, mega, plain=False):
    """Chunks of lines, half of the files and half generated; plain: the files as they are."""
    if plain:
        for f in files:
            with open(f, "rb") as text:
                while lines := text.readlines(CHUNK):
                    yield b"".join(lines)
        return
    size = int(mega * 1e6)
    real = b"".join(f.read_bytes().decode("utf-8", "ignore").encode().rstrip(b"\n") + b"\n" for f in files).replace(b"\0", b" ")
    done, turn, at = 0, 0, 0
    while done < size:
        if turn % 2 and real:
            end = real.find(b"\n", min(at + CHUNK, len(real)) - 1) + 1 or len(real)
            chunk = real[at:end]
            at = end if end < len(real) else 0
        else:
            chunk = generated(min(CHUNK, size - done), turn)
        turn += 1
        done += len(chunk)
        yield chunk


def quipu_ids(binary, model, path, special):
    options = [] if special else ["--no-special"]
    with open(path, "rb") as text:
        run = subprocess.run([binary, "tokenize", "-t", "1", "-m", model, *options], stdin=text, capture_output=True)
    if run.returncode:
        sys.exit(run.stderr.decode())
    return np.fromstring(run.stdout.replace(b"\n", b" -1 "), dtype=np.int64, sep=" ")


def quipu_seconds(binary, model, path):
    out = subprocess.run([binary, "bench", "tokenize", "-t", "1", "-r", "1", "--json", "-m", model, "--data", path],
                         check=True, capture_output=True, text=True).stdout
    return next(r["seconds"] for r in json.loads(out)["rows"] if r["what"] == "encode")


def lines_of(ids):
    return np.split(ids, np.flatnonzero(ids == -1) + 1)[:-1]


def compare(o, model, reference, special):
    theirs = Tokenizer.from_file(str(reference))
    theirs.no_padding()
    theirs.no_truncation()
    compared = wrong = 0
    seconds = {"quipu": 0.0, "tokenizers": 0.0}
    mega = shown = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "text.txt")
        for chunk in texts(o.text, o.mega, o.plain):
            pathlib.Path(path).write_bytes(chunk)
            lines = chunk.decode().split("\n")[:-1]
            start = time.perf_counter()
            encoded = theirs.encode_batch_fast(lines, add_special_tokens=special)
            seconds["tokenizers"] += time.perf_counter() - start
            want = np.concatenate([np.array([*e.ids, -1], dtype=np.int64) for e in encoded])
            got = quipu_ids(o.quipu, model, path, special)
            if not o.quick:
                seconds["quipu"] += quipu_seconds(o.quipu, model, path)
            mega += len(chunk) / 1e6
            compared += len(want) - len(lines)
            if len(got) == len(want) and (got == want).all():
                continue
            for text, a, b in zip(lines, lines_of(got), lines_of(want)):
                if len(a) != len(b) or (a != b).any():
                    wrong += 1
                    if shown < o.show:
                        shown += 1
                        print(f"  {text!r}\n    quipu      {a[:-1].tolist()}\n    tokenizers {b[:-1].tolist()}")
    speed = "" if o.quick else f"quipu {mega / seconds['quipu']:.1f} MB/s, "
    times = "" if o.quick else f": {seconds['tokenizers'] / seconds['quipu']:.1f}x"
    print(f"{model}: {mega:.0f} MB, {compared} ids, {wrong} lines differ; {speed}tokenizers "
          f"{mega / seconds['tokenizers']:.1f}{times}", flush=True)
    return wrong


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("tokenizer", type=pathlib.Path, nargs="+")
    p.add_argument("--quipu", required=True)
    p.add_argument("--text", type=pathlib.Path, action="append", default=[])
    p.add_argument("--mega", type=float, default=100)
    p.add_argument("--plain", action="store_true", help="the files' text alone")
    p.add_argument("--rebuilt", type=pathlib.Path, help="what the package reads in place of the tokenizer")
    p.add_argument("--special", action="store_true", help="with what the template puts around a text")
    p.add_argument("--quick", action="store_true", help="ids only")
    p.add_argument("--show", type=int, default=3)
    o = p.parse_args()
    sys.exit(any([compare(o, str(t), o.rebuilt or t, o.special) for t in o.tokenizer]))


if __name__ == "__main__":
    main()
