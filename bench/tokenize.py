"""quipu's tokenizer beside `tokenizers` and `tiktoken`, in one run.

    python bench/tokenize.py --quipu build/quipu --tokenizer gpt2-folder TEXT

Learning: quipu and `tokenizers`, the same text, size and threads. Encoding: one thread each, the
GPT-2 tokenizer of the folder, ids compared token by token. tiktoken gets the whole text at once,
`tokenizers` gets it line by line (its time grows faster than the text). Medians over repeats.
Needs tokenizers and tiktoken.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time


def median_time(call, repeats):
    samples = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples), result


def quipu(binary, threads, *options):
    command = [binary, "bench", "tokenize", "-t", str(threads), "--json", *options]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["rows"]
    return {row["what"]: row for row in rows}


def gpt2_ranks(path):
    """tiktoken's table from tokenizer.json: the bytes of each token and its id."""
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(c): c for c in codes}
    table |= {chr(256 + i): c for i, c in enumerate(c for c in range(256) if c not in codes)}
    vocab = json.loads(path.read_text())["model"]["vocab"]
    return {bytes(table[c] for c in token): i for token, i in vocab.items() if token != "<|endoftext|>"}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("text", type=pathlib.Path)
    p.add_argument("--quipu", required=True)
    p.add_argument("--tokenizer", type=pathlib.Path, required=True, help="folder with GPT-2's tokenizer.json")
    p.add_argument("--size", type=int, default=32768)
    p.add_argument("--threads", type=int, default=2, help="of learning")
    p.add_argument("--repeats", type=int, default=3)
    o = p.parse_args()
    os.environ |= {"RAYON_NUM_THREADS": str(o.threads), "TOKENIZERS_PARALLELISM": "true"}
    import tiktoken
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    text, mega = o.text.read_bytes().decode(), o.text.stat().st_size / 1e6
    learn = quipu(o.quipu, o.threads, "--data", str(o.text), "--size", str(o.size))["learn"]["seconds"]

    def train():
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.train([str(o.text)], trainers.BpeTrainer(vocab_size=o.size, special_tokens=["<|endoftext|>"],
                                                   show_progress=False,
                                                   initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        return t

    theirs, _ = median_time(train, 1)
    print(f"learn {o.size} of {mega:.1f} MB, {o.threads} threads: quipu {learn:.2f} s, tokenizers {theirs:.2f} s: "
          f"{theirs / learn:.1f}x")

    ours = quipu(o.quipu, 1, "-m", str(o.tokenizer), "--data", str(o.text), "-r", str(o.repeats))["encode"]
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    peer = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=gpt2_ranks(o.tokenizer / "tokenizer.json"),
                             special_tokens={"<|endoftext|>": 50256})
    tik, ids = median_time(lambda: peer.encode_ordinary(text), o.repeats)
    few = text[:2_000_000].replace("\n", " ").replace("\r", " ")
    line = subprocess.run([o.quipu, "tokenize", "-m", str(o.tokenizer)], input=few + "\n", text=True,
                          capture_output=True, check=True).stdout
    assert [int(i) for i in line.split()] == peer.encode_ordinary(few), "ids differ"
    assert len(ids) == ours["tokens"], "counts of ids differ"
    hf = Tokenizer.from_file(str(o.tokenizer / "tokenizer.json"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    lines = text.splitlines(keepends=True)
    slow, _ = median_time(lambda: [hf.encode(x) for x in lines], 1)
    print(f"encode {mega:.1f} MB, 1 thread: quipu {mega / ours['seconds']:.1f} MB/s, tiktoken {mega / tik:.1f}, "
          f"tokenizers {mega / slow:.1f}: {tik / ours['seconds']:.1f}x, {slow / ours['seconds']:.1f}x; "
          f"{len(ids)} ids equal in number, those of the first 2 MB one by one")


if __name__ == "__main__":
    main()
