"""Makes the golden tokenizers: a tokenizer.json each, trained on corpus.txt by the `tokenizers`
package, and NAME.cases.json with texts and the ids that the package gives them.

    python make_tokenizers.py
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

here = pathlib.Path(__file__).parent
corpus = (here / "corpus.txt").read_bytes().decode()

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
OTHER = (  # in the manner of newer GPT models; goes to the general engine
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert=invert)


def train(pre, size=500, special=("<|endoftext|>",), normalizer=None, **model):
    t = Tokenizer(models.BPE(**model))
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(
        [corpus],
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return t


def edited(t, **changes):
    """The same tokenizer with some of its model's JSON replaced."""
    j = json.loads(t.to_str())
    j["model"].update(changes)
    return Tokenizer.from_str(json.dumps(j))


tokenizers = {}
tokenizers["gpt2"] = train(byte_level(regex=True))
tokenizers["prefix"] = train(byte_level(prefix=True, regex=True))
tokenizers["whole"] = train(byte_level())

t = train(pre_tokenizers.Sequence([split(LLAMA3), byte_level()]), special=("<|begin|>", "<|end_of_text|>"))
t.post_processor = processors.Sequence(
    [
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B:1", special_tokens=[("<|begin|>", 0)]
        ),
    ]
)
tokenizers["llama3"] = edited(t, ignore_merges=True)
j = json.loads(t.to_str())
tokenizers["ignore"] = edited(t, ignore_merges=True, merges=j["model"]["merges"][::3])

t = train(pre_tokenizers.Sequence([split(QWEN2), byte_level()]), normalizer=normalizers.NFC())
t.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
tokenizers["qwen2"] = t

t = train(
    byte_level(regex=True),
    special=("<s>", "</s>", "<mask>"),
    normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.NFC()]),
)
t.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
t.add_tokens(
    [
        AddedToken("knot", single_word=True, normalized=True),
        AddedToken("<l>", lstrip=True, normalized=False),
        AddedToken("<r>", rstrip=True, normalized=False),
        AddedToken("<b>", lstrip=True, rstrip=True, normalized=True),
        AddedToken("ﬁnal é", normalized=True),
        AddedToken("<|a|>", normalized=False),
        AddedToken("<|a|>b", normalized=False),
        AddedToken("  ", normalized=False),
    ]
)
tokenizers["added"] = t

tokenizers["digits"] = train(
    pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(regex=True)])
)
tokenizers["regex"] = train(pre_tokenizers.Sequence([split(OTHER, "removed", True), byte_level()]))
tokenizers["gaps"] = train(
    pre_tokenizers.Sequence([split(r"[0-9]{1,3}|[a-z]*"), pre_tokenizers.Digits(), byte_level(prefix=True)])
)

# A vocabulary without most bytes: they are dropped, or become the unknown token.
t = Tokenizer(models.BPE())
t.pre_tokenizer = byte_level(regex=True)
t.decoder = decoders.ByteLevel()
t.train_from_iterator(["abc abd abe bcd bce"] * 9, trainers.BpeTrainer(vocab_size=20, special_tokens=["<unk>"], show_progress=False))
tokenizers["dropped"] = t
tokenizers["unknown"] = edited(t, unk_token="<unk>")
tokenizers["fused"] = edited(t, unk_token="<unk>", fuse_unk=True)

printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
others = [b for b in range(256) if b not in printable]
to_char = {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}
t = Tokenizer(models.BPE(vocab={to_char[b]: b for b in range(256)}, merges=[]))
t.pre_tokenizer = byte_level()
t.decoder = decoders.ByteLevel()
t.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
tokenizers["bytes"] = t

texts = [
    "", " ", "  ", "\n", " \n ", "\r\n\r\n", "\t\t x", "a", " a", "a ", "  a  b   c    ", "hello world",
    "It's they're we've I'm he'd I'll don't IT'S THEY'RE We'Ve i'M 'LL 'ſ '' 's's 'x 'r 'l",
    "1 12 123 1234 12345 123456 1,234.5 a1b22c333 ½²٣٤Ⅷ", "x=1;\r\n\r\n  y = 2;\r\n\t return;\n\n\n", " \u00a0 \u3000x\u2028y\u2029\u0085z",
    "Größe für Schnüre, nœuds à l'été; ¿Cuántos años?", "Кипу — это верёвка", "κιπού", "結び目の数は1204です。", "绳结表示数字,颜色",
    "매듭은 수를", "गाँठें गिनती", "العقد تعد الناس", "קשרים", "👍🏽❤️🙂 👩‍👩‍👧‍👦", "e\u0301 o\u0308 cafe\u0301 ﬁ Å ℌ ㍿ ｱ",
    "knot knots knot, aknot knot\u0301 the knot's", "a <l> b <r>  c <b> d  <l><r>  <l>", "<|a|> <|a|>b <|a|>bc <|a", "ﬁnal é final é finale",
    "<s>text</s><mask> <|endoftext|><|im_start|>user\nhi<|im_end|>\n<|begin|><|end_of_text|>", "<|endoftext|", "<unk>",
    "def count(knots):\n    total = 0\n    for place, n in enumerate(knots):\n        total += n * 10 ** place\n",
    "a" * 70, "ab" * 40 + " " + "knots" * 30, "=" * 100, " " * 70 + "x", "\n" * 9 + "x", "0" * 50, "結" * 60, "'" * 9,
    "abc abd xyz abe", "aaaa\u0000bbbb"[:4], "\u200b\u200d\ufeff\u00ad", "\U00010400\U0001d518\U00013000\U000e0001\U0010ffff", "A\u0300\u0301B\u20dd",
]
random.seed(7)
alphabet = list("etaoin shrdlu   \n'\"1239.,!?-_<|>()") + list("éßœжλ結의ग👍½\u0301\u00a0\u2003\r\t") + ["'s", "'LL", " the", "\r\n", "<|endoftext|>"]
texts += ["".join(random.choice(alphabet) for _ in range(random.randint(5, 80))) for _ in range(40)]

for name, t in tokenizers.items():
    (here / f"{name}.json").write_text(t.to_str(), encoding="utf-8")
    cases = []
    for text in texts:
        case = {"text": text, "ids": t.encode(text, add_special_tokens=False).ids, "wrapped": t.encode(text).ids}
        t.encode_special_tokens = True
        case["literal"] = t.encode(text, add_special_tokens=False).ids
        t.encode_special_tokens = False
        for key in ("wrapped", "literal"):
            if case[key] == case["ids"]:
                del case[key]
        cases.append(case)
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    (here / f"{name}.cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
