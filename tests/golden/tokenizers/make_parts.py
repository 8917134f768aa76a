"""Makes parts.json: the components of tokenizer.json one by one, each in a tokenizer whose tokens are characters (with
</w> behind the last of a word, so that ids show where words end), with the ids and decoded texts of the package.

    python make_parts.py
"""
import json
import pathlib

from tokenizers import Regex, Tokenizer, decoders as D, models, normalizers as N, pre_tokenizers as P

from charsmap import precompiled
from texts import texts

here = pathlib.Path(__file__).parent
chosen = [t for i, t in enumerate(texts) if len(t) < 60 and (i % 3 == 0 or len(t) < 12 or i >= len(texts) - 16)]
chosen += ["\U00011935\U00011930 \U00011938 \u0928\u093c"]  # younger than the package's normal forms, and not
chosen += [  # blocks that normalizers name, planes without letters, contractions that are none, tails of spaces
    "a㐀b\U00020000c\U0002a700d\U0002b740e\U0002b920f豈g\U0002f800h\U0002ffff", "a\u1680b\u2028c\u2029d\ufffde\x8ff\x9fg\u2581h",
    "\ue000\U000e0300\U000f0000\U000ffffe\U00100000\uffff", "a'rx b'vx c'lx d'\u0140 e've f'll g're", "aab  aa", "İİİİİİİİİİİİİİİİx",
]
BEHAVIORS = ("isolated", "removed", "contiguous", "merged_with_previous", "merged_with_next")

normalizers = {
    "NFC": N.NFC(), "NFD": N.NFD(), "NFKC": N.NFKC(), "NFKD": N.NFKD(), "Lowercase": N.Lowercase(), "StripAccents": N.StripAccents(),
    "Nmt": N.Nmt(), "ByteLevel": N.ByteLevel(), "Prepend": N.Prepend("<<"), "Precompiled": precompiled(),
    "Strip": N.Strip(), "Strip left": N.Strip(True, False), "Strip right": N.Strip(False, True),
    "Bert": N.BertNormalizer(), "Bert clean": N.BertNormalizer(True, False, False, False), "Bert chinese": N.BertNormalizer(False, True, False, False),
    "Bert accents": N.BertNormalizer(False, False, True, False), "Bert lower": N.BertNormalizer(False, False, None, True),
    "Replace text": N.Replace("a", "é"), "Replace longer": N.Replace("ab", "x"), "Replace empty": N.Replace("", "_"), "Replace gone": N.Replace(" ", ""),
    "Replace pattern": N.Replace(Regex(r"[\s\d]+"), "·"), "Replace word": N.Replace(Regex(r"\w+"), "w"), "Replace at ends": N.Replace(Regex(r"^|$"), "|"),
    "Replace at start": N.Replace(Regex(r"^(a|é| )"), ""), "Replace same": N.Replace("a", "b"), "Replace any": N.Replace(Regex("x*"), "-"), "Sequence": N.Sequence([N.NFD(), N.Strip(), N.Sequence([N.Lowercase(), N.StripAccents()])]),
}
pre_tokenizers = {
    "ByteLevel": P.ByteLevel(False), "ByteLevel prefix": P.ByteLevel(True), "ByteLevel whole": P.ByteLevel(False, use_regex=False),
    "ByteLevel prefix whole": P.ByteLevel(True, use_regex=False), "ByteLevel first": P.Sequence([P.ByteLevel(True), P.Digits(True)]),
    "Digits": P.Digits(False), "Digits each": P.Digits(True), "Whitespace": P.Whitespace(), "WhitespaceSplit": P.WhitespaceSplit(),
    "Bert": P.BertPreTokenizer(), "Delimiter": P.CharDelimiterSplit("é"), "Delimiter a": P.CharDelimiterSplit("a"), "FixedLength": P.FixedLength(3),
    "Metaspace": P.Metaspace(), "Metaspace first": P.Metaspace(prepend_scheme="first"), "Metaspace never": P.Metaspace(prepend_scheme="never"),
    "Metaspace whole": P.Metaspace(split=False), "Metaspace first whole": P.Metaspace("_", "first", False),
    "Spaces, Metaspace first": P.Sequence([P.WhitespaceSplit(), P.Metaspace(prepend_scheme="first")]),
    "Spaces, Metaspace": P.Sequence([P.Split(" ", "merged_with_next"), P.Metaspace()]),
    "Split empty": P.Split("", "isolated"), "Split lookbehind": P.Split(Regex(r"(?<=a)b|\b"), "isolated"), "Split class": P.Split(Regex(r"[^\w\s]+|[[:upper:]]\h"), "removed"),
    "Split not": P.Split(Regex(r"\S+|\W\H|[]a]"), "merged_with_next"), "Split not B": P.Split(Regex(r"\B.|[\S]|\w&&"), "isolated"), "Split by hand": P.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "removed", True),
}
for b in BEHAVIORS:
    pre_tokenizers[f"Punctuation {b}"] = P.Punctuation(b)
    pre_tokenizers[f"Split text {b}"] = P.Split("a", b)
    pre_tokenizers[f"Split {b}"] = P.Split(Regex(r"\d|[a-f]+"), b)
    pre_tokenizers[f"Split {b} inverted"] = P.Split(Regex(r"\d|[a-f]+"), b, invert=True)
decoders = {
    "none": None, "ByteLevel": D.ByteLevel(), "ByteFallback": D.ByteFallback(), "Fuse": D.Fuse(), "Metaspace": D.Metaspace(), "Metaspace never": D.Metaspace(prepend_scheme="never"),
    "WordPiece": D.WordPiece("a", True), "WordPiece plain": D.WordPiece("a", False), "BPEDecoder": D.BPEDecoder(), "CTC": D.CTC("a", "b", True), "CTC plain": D.CTC("a", "b", False),
    "Replace": D.Replace("a", "bb"), "Replace pattern": D.Replace(Regex("[ae]|</w>"), "."), "Replace empty": D.Replace("", "_"), "Strip": D.Strip("a", 1, 0), "Strip both": D.Sequence([D.Fuse(), D.Strip(" ", 2, 2)]),
    "Strip é": D.Sequence([D.Replace("</w>", ""), D.Fuse(), D.Strip("é", 1, 1)]),
    "llama": D.Sequence([D.Replace("</w>", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)]),
    "behind Fuse": D.Sequence([D.Replace("</w>", " "), D.Fuse(), D.Replace(Regex("a +"), "A"), D.Strip(" ", 0, 1)]),
    "two strips": D.Sequence([D.BPEDecoder(), D.Fuse(), D.Strip("a", 1, 0), D.Strip("b", 1, 0)]),
    "Strip end": D.Strip("a", 0, 1), "BPEDecoder empty": D.BPEDecoder(suffix=""), "CTC empty": D.CTC("a", "", True), "WordPiece empty": D.WordPiece("", True),
    "two Fuses": D.Sequence([D.Fuse(), D.Fuse()]), "CTC, whole": D.Sequence([D.CTC("a", "b", False), D.Fuse(), D.Replace(Regex("e+"), "E")]),
    "BPEDecoder, whole": D.Sequence([D.BPEDecoder(), D.Fuse(), D.Replace(Regex(" +"), "_")]), "nothing left": D.Sequence([D.Replace("a", ""), D.Replace(Regex("b*"), "-")]),
    "ByteFallback, ByteLevel": D.Sequence([D.ByteFallback(), D.ByteLevel()]), "ByteLevel, Metaspace": D.Sequence([D.ByteLevel(), D.Metaspace("e")]), "CTC, WordPiece": D.Sequence([D.CTC("a", "b", False), D.WordPiece("c")]),
}


def decoded(t, ids):
    """None where the package itself fails: it strips more than there is."""
    try:
        return t.decode(ids)
    except BaseException:
        return None


def member(component):
    return component and json.loads(component.__getstate__())


entries, alphabet = [], set("".join(chosen))
for name, n in normalizers.items():
    alphabet.update("".join(n.normalize_str(t) for t in chosen))
alphabet.update(c for p in pre_tokenizers.values() for t in chosen for w, _ in p.pre_tokenize_str(t) for c in w)
vocab = {"<unk>": 0}
for c in sorted(alphabet):
    vocab[c] = len(vocab)
    vocab[c + "</w>"] = len(vocab)
for token in ("<0x41>", "<0xC3>", "<0xA9>", "<0xzz>", "<0x4z>", "<0x/4>", "<0xFfa", "<0xfF>", "n't", "do not"):
    vocab[token] = len(vocab)
base = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", end_of_word_suffix="</w>"))
for key, table in (("normalizer", normalizers), ("pre_tokenizer", pre_tokenizers)):
    for name, component in table.items():
        j = json.loads(base.to_str()) | {key: member(component)}
        t = Tokenizer.from_str(json.dumps(j))
        entries.append({"name": f"{key} {name}", "part": key, "json": j[key], "ids": [t.encode(x).ids for x in chosen]})
spoken = [base.encode(x).ids for x in chosen[::4] if x] + [
    [vocab[t] for t in line] for line in (("a", "a", "b", "a"), ("a",), ("<0xC3>", "<0xA9>", "a"), ("<0x41>", "<0xzz>"), ("a", "n't", "do not", ".", "?", "a", "a", " ", "'", " "),
                                          (" ", " ", " ", "e", " ", " ", " "), ("é", "é", "b", "é", "é"), (" ",), ("a", "b", "a", "a", "b", "b", "e", "e"),
                                          ("<0x4z>", "<0x/4>", "<0xFfa"), ("<0xfF>", "a"), ("a", "a", "a"), ("e", "a", "a", "e", "e", "b"))]
for name, component in decoders.items():
    j = json.loads(base.to_str()) | {"decoder": member(component)}
    t = Tokenizer.from_str(json.dumps(j))
    entries.append({"name": f"decoder {name}", "part": "decoder", "json": j["decoder"], "texts": [decoded(t, x) for x in spoken]})
parts = {"model": json.loads(base.to_str())["model"], "texts": chosen, "spoken": spoken}
rows = ",\n".join(json.dumps(e, ensure_ascii=False, separators=(",", ":")) for e in entries)
head = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))[:-1]
(here / "parts.json").write_text(f'{head},"entries":[\n{rows}\n]}}\n', encoding="utf-8")
