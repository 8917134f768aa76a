"""Makes the golden tokenizers: a tokenizer.json each, trained on corpus.txt by the `tokenizers`
package, and NAME.cases.json with texts and the ids that the package gives them.

    python make_tokenizers.py
"""
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from charsmap import precompiled
from texts import corpus, texts

here = pathlib.Path(__file__).parent

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

# ---- Models over characters -------------------------------------------------------------------------


def trained(model, trainer, normalizer, pre, decoder, post=None, added=()):
    t = Tokenizer(model)
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    t.train_from_iterator(corpus.splitlines(keepends=True), trainer)
    t.decoder = decoder
    if post:
        t.post_processor = post
    t.add_special_tokens(list(added))
    return t


quiet = {"show_progress": False}
byte_tokens = [f"<0x{b:02X}>" for b in range(256)]

t = trained(
    models.WordPiece(unk_token="[UNK]"),
    trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], **quiet),
    normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(), None, ["[MASK]"],
)
t.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
tokenizers["wordpiece"] = t
t = trained(
    models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=12, continuing_subword_prefix="@"),
    trainers.WordPieceTrainer(vocab_size=300, continuing_subword_prefix="@", special_tokens=["[UNK]", "[CLS]", "[SEP]"], **quiet),
    normalizers.BertNormalizer(lowercase=False, handle_chinese_chars=False),
    pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)]),
    decoders.WordPiece("@", False), processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)), [],
)
tokenizers["wordpiece-cased"] = t

tokenizers["unigram"] = trained(
    models.Unigram(), trainers.UnigramTrainer(vocab_size=500, unk_token="<unk>", special_tokens=["<s>", "</s>", "<unk>"], **quiet),
    normalizers.Sequence([precompiled(), normalizers.Replace(Regex(" {2,}"), " ")]),
    pre_tokenizers.Metaspace(), decoders.Metaspace(),
    processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]),
    [AddedToken("<mask>", lstrip=True)],
)
t = trained(
    models.Unigram(), trainers.UnigramTrainer(vocab_size=760, unk_token="<unk>", special_tokens=["<unk>", *byte_tokens], **quiet),
    normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()]),
    pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
    decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]),
)
tokenizers["unigram-bytes"] = edited(t, byte_fallback=True)

llama = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def spm(normalizer, pre, decoder, **changes):
    """Byte fallback as converted from SentencePiece; learnt on words, used on whole texts."""
    t = trained(
        models.BPE(), trainers.BpeTrainer(vocab_size=520, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], limit_alphabet=70, **quiet),
        None, pre_tokenizers.Metaspace(), decoder,
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]),
    )
    j = json.loads(t.to_str())
    j["pre_tokenizer"] = pre and json.loads(pre.__getstate__())
    j["normalizer"] = normalizer and json.loads(normalizer.__getstate__())
    j["added_tokens"] = [x for x in j["added_tokens"] if x["id"] < 3]
    j["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"} | changes
    return Tokenizer.from_str(json.dumps(j))


tokenizers["llama"] = spm(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, llama)
tokenizers["llama-new"] = spm(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), llama)
tokenizers["gemma"] = spm(
    normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
    decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]), ignore_merges=True,
)

tokenizers["clip"] = trained(
    models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", fuse_unk=True),
    trainers.BpeTrainer(vocab_size=330, end_of_word_suffix="</w>", special_tokens=["<unk>", "<|endoftext|>"], limit_alphabet=80, **quiet),
    normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]),
    pre_tokenizers.Split(Regex(r"<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
    decoders.BPEDecoder(),
)
tokenizers["prefixed"] = trained(
    models.BPE(unk_token="<unk>", continuing_subword_prefix="##"),
    trainers.BpeTrainer(vocab_size=330, continuing_subword_prefix="##", special_tokens=["<unk>"], limit_alphabet=80, **quiet),
    normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Strip()]), pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(),
)
tokenizers["wordlevel"] = trained(
    models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(vocab_size=150, special_tokens=["[UNK]"], **quiet),
    normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase()]),
    pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("contiguous")]), None,
)
tokenizers["deepseek"] = train(
    pre_tokenizers.Sequence(
        [split(r"[\r\n]"), split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+"), split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"), split("[一-龥ࠀ-一가-퟿]+"),
         pre_tokenizers.Digits(True), byte_level()]
    )
)

for name, t in tokenizers.items():
    (here / f"{name}.json").write_text(t.to_str(), encoding="utf-8")
    cases = []
    for text in texts:
        case = {"text": text, "ids": t.encode(text, add_special_tokens=False).ids, "wrapped": t.encode(text).ids}
        t.encode_special_tokens = True
        case["literal"] = t.encode(text, add_special_tokens=False).ids
        t.encode_special_tokens = False
        case["decoded"] = t.decode(case["ids"], skip_special_tokens=False)
        if case["decoded"] == text:
            del case["decoded"]
        if len(cases) % 9 == 4:
            pair = t.encode(text, texts[7])
            case["pair"] = {"ids": pair.ids, "types": pair.type_ids}
        for key in ("wrapped", "literal"):
            if case[key] == case["ids"]:
                del case[key]
        cases.append(case)
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    (here / f"{name}.cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
