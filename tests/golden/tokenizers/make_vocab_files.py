"""Makes the golden vocabularies of GGUF files and SentencePiece models: FILE.gguf or FILE.model each, and
FILE.cases.json with texts and the ids that llama.cpp gives them (its llama-tokenize).

    python make_vocab_files.py path/to/llama-tokenize
"""
import json
import pathlib
import struct
import subprocess
import sys

from texts import texts

here = pathlib.Path(__file__).parent
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
MARK = "\u2581"


def text(x):
    data = x.encode()
    return struct.pack("<Q", len(data)) + data


def value(x):
    if isinstance(x, bool):
        return struct.pack("<I?", 7, x)
    if isinstance(x, int):
        return struct.pack("<IIx", 4, x)[:8]
    if isinstance(x, str):
        return struct.pack("<I", 8) + text(x)
    if isinstance(x, bytes):
        return struct.pack("<IIQ", 9, 0, len(x)) + x
    kind, pack = (8, text) if isinstance(x[0], str) else (6, lambda v: struct.pack("<f", v)) if isinstance(x[0], float) else (5, lambda v: struct.pack("<i", v))
    return struct.pack("<IIQ", 9, kind, len(x)) + b"".join(map(pack, x))


def gguf(path, members):
    members = {"general.architecture": "llama", **{f"tokenizer.ggml.{k}": v for k, v in members.items()}}
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(members)) + b"".join(text(k) + value(v) for k, v in members.items()))


def varint(n):
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number, x):
    if isinstance(x, float):
        return varint(number << 3 | 5) + struct.pack("<f", x)
    if isinstance(x, int):
        return varint(number << 3) + varint(x)
    return varint(number << 3 | 2) + varint(len(x)) + x


def model(path, pieces, kind, **normal):
    """A SentencePiece model: kind 1 Unigram, 2 pair merges."""
    data = b"".join(field(1, field(1, t.encode()) + field(2, s) + (field(3, k) if k != NORMAL else b"")) for t, s, k in pieces)
    trainer = field(3, kind) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2)
    path.write_bytes(data + field(2, trainer) + field(3, b"".join(field({"charsmap": 2, "prefix": 3, "squeeze": 4}[k], v) for k, v in normal.items())))


def ids(tokenize, path, line):
    run = subprocess.run([tokenize, "-m", path, "--ids", "--no-bos", "--no-parse-special", "--log-disable", "--stdin", "--no-escape"], input=line.encode(), capture_output=True)
    out = run.stdout.decode()
    assert run.returncode == 0, run.stderr.decode()[-500:]
    return json.loads(out[out.rindex("[") :])


def cases(tokenize, path, name, skip=lambda t: False):
    chosen = [t for t in texts if t and not skip(t)]
    rows = ",\n".join(json.dumps({"text": t, "ids": ids(tokenize, path, t)}, ensure_ascii=False, separators=(",", ":")) for t in chosen)
    (here / f"{name}.cases.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def from_bpe(name):
    """Tokens by score as SentencePiece learns them: later tokens score less."""
    vocab = json.loads((here / f"{name}.json").read_text())["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    return [(t, float(-i), UNKNOWN if t == "<unk>" else CONTROL if t in ("<s>", "</s>") else BYTE if t.startswith("<0x") else NORMAL) for i, t in enumerate(tokens)]


def main():
    tokenize = sys.argv[1]
    spm = from_bpe("llama") + [("<user>", -1000.0, USER)]
    gguf(here / "spm.gguf", {"model": "llama", "tokens": [t for t, _, _ in spm], "scores": [s for _, s, _ in spm], "token_type": [k for _, _, k in spm],
                             "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_space_prefix": True})
    cases(tokenize, here / "spm.gguf", "spm")
    model(here / "spm.model", spm, 2, prefix=1, squeeze=0)

    j = json.loads((here / "digits.json").read_text())["model"]
    tokens = sorted(j["vocab"], key=j["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in j["merges"]]
    gguf(here / "bpe.gguf", {"model": "gpt2", "pre": "smollm", "tokens": tokens, "token_type": [CONTROL if t.startswith("<|") else NORMAL for t in tokens], "merges": merges,
                             "bos_token_id": 0, "eos_token_id": 0, "eot_token_id": 5, "add_bos_token": False})
    cases(tokenize, here / "bpe.gguf", "bpe")

    vocab = json.loads((here / "wordpiece.json").read_text())["model"]["vocab"]
    tokens = [t if t.startswith("[") else t[2:] if t.startswith("##") else MARK + t for t in sorted(vocab, key=vocab.get)]
    gguf(here / "wpm.gguf", {"model": "bert", "tokens": tokens, "token_type": [CONTROL if t.startswith("[") else NORMAL for t in tokens],
                             "cls_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1, "padding_token_id": 0, "bos_token_id": 2, "eos_token_id": 3})
    # llama.cpp drops other control characters and marks, splits at other signs and knows no longest word
    cases(tokenize, here / "wpm.gguf", "wpm", lambda t: any(ord(c) > 0x8FF or ord(c) in (0x85, 0xB, 0xC) for c in t) or len(t) > 100)

    unigram = json.loads((here / "unigram-bytes.json").read_text())["model"]["vocab"]
    pieces = [(t, float(s), UNKNOWN if t == "<unk>" else BYTE if t.startswith("<0x") else NORMAL) for t, s in unigram]
    model(here / "unigram.model", pieces, 1, prefix=1, squeeze=1)
    gguf(here / "ugm.gguf", {"model": "t5", "tokens": [t for t, _, _ in pieces], "scores": [s for _, s, _ in pieces], "token_type": [k for _, _, k in pieces],
                             "eos_token_id": 1, "unknown_token_id": 0, "add_space_prefix": True, "remove_extra_whitespaces": True, "add_eos_token": False})


main()
