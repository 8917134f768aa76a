"""Writes src/data/unicode_table.h: what the `tokenizers` package takes code points for, so that texts are
cut and normalised at the same places. Its parts know different versions of Unicode; each is asked itself.

    python make_unicode_table.py > ../../../src/data/unicode_table.h

Needs the utf8proc that quipu is built with (the flag OPAQUE says where the package normalises otherwise).
"""
import ctypes
import ctypes.util

from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CHUNKS = [CODES[i : i + 4096] for i in range(0, len(CODES), 4096)]
BLOCK, SMALL = 256, 64


def removed(pre):
    """The code points that a pre-tokenizer leaves out."""
    found = set()
    for chunk in CHUNKS:
        kept = {ord(c) for piece, _ in pre.pre_tokenize_str("".join(map(chr, chunk))) for c in piece}
        found.update(c for c in chunk if c not in kept)
    return found


def matches(pattern):
    return removed(pre_tokenizers.Split(Regex(pattern), "removed"))


def joined_to_letter(pre, separator):
    """The code points that stay in one piece with a letter before them."""
    found = set()
    for chunk in CHUNKS:
        for piece, _ in pre.pre_tokenize_str(separator.join("a" + chr(c) for c in chunk)):
            if len(piece) == 2 and piece[0] == "a":
                found.add(ord(piece[1]))
    return found


def numeric():
    found = set()
    for chunk in CHUNKS:
        for piece, _ in pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a".join(map(chr, [97, *chunk, 97]))):
            if len(piece) == 1 and piece != "a":
                found.add(ord(piece))
    return found


def dropped(normalizer):
    return {c for c in CODES if normalizer.normalize_str("a" + chr(c)) == "a"}


def bert(**options):
    return normalizers.BertNormalizer(**{**dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False), **options})


def opaque():
    """What the package's normal forms pass over and utf8proc's do not: it came into Unicode later."""
    proc = ctypes.CDLL(ctypes.util.find_library("utf8proc"))
    proc.utf8proc_get_property.restype = ctypes.POINTER(ctypes.c_uint16)
    proc.utf8proc_map.argtypes = [ctypes.c_char_p, ctypes.c_ssize_t, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int]
    proc.utf8proc_map.restype = ctypes.c_ssize_t
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]

    def mapped(text, options):
        out, data = ctypes.c_void_p(), text.encode()
        n = proc.utf8proc_map(data, len(data), ctypes.byref(out), options)
        assert n >= 0
        result = ctypes.string_at(out.value, n).decode()
        free(out)
        return result

    stable, compat, compose, decompose = 2, 4, 8, 16  # utf8proc.h
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    found = set()
    for c in CODES:
        x = chr(c)
        if mapped(x, stable | compat | decompose) != nfkd.normalize_str(x):
            found.add(c)
        elif any(mapped(t, stable | decompose) != nfd.normalize_str(t) for t in ("a\u0315" + x, "a" + x + "\u0334")):
            found.add(c)
    ends = {True: set(), False: set()}  # of what is made of others, by whether the package knows it
    for c in CODES:
        parts = mapped(chr(c), stable | decompose)
        if len(parts) > 1 and mapped(parts, stable | compose) == chr(c):
            ends[c not in found].add(ord(parts[-1]))
    return found | ends[False] - ends[True]


def print_blocks(name, rows, unit, digits):
    print(f"static const {unit} {name}[{len(rows)}][{len(rows[0])}] = {{")
    for row in rows:
        print("    {" + ",".join(f"{w:#x}" if digits else str(w) for w in row) + "},")
    print("};\n")


def two_stages(values, limit, size):
    blocks, index = [], []
    for base in range(0, limit, size):
        row = tuple(values.get(c, 0) for c in range(base, base + size))
        if row not in blocks:
            blocks.append(row)
        index.append(blocks.index(row))
    return index, blocks


def print_index(name, index):
    assert max(index) < 65536
    print(f"static const uint{8 if max(index) < 256 else 16}_t {name}[{len(index)}] = {{")
    for i in range(0, len(index), 28):
        print("    " + ",".join(map(str, index[i : i + 28])) + ",")
    print("};\n")


classes = {}
for value, pattern in ((1, r"\p{L}"), (2, r"\p{N}"), (3, r"\s")):
    for c in matches(pattern):
        classes[c] = value
assert removed(pre_tokenizers.WhitespaceSplit()) == {c for c in classes if classes[c] == 3}

flags = {}
for bit, members in enumerate(
    (
        joined_to_letter(pre_tokenizers.Whitespace(), " "),
        numeric(),
        removed(pre_tokenizers.Punctuation("removed")),
        dropped(bert(clean_text=True)),
        dropped(bert(strip_accents=True)),
        dropped(normalizers.StripAccents()),
        opaque(),
    )
):
    for c in members:
        flags[c] = flags.get(c, 0) | 1 << bit

lower = [(c, [ord(x) for x in normalizers.Lowercase().normalize_str(chr(c))]) for c in CODES]
lower = [(c, to) for c, to in lower if to != [c]]
assert [(c, to) for c, to in lower if len(to) > 1] == [(0x130, [0x69, 0x307])]
ranges = []
for c, (to, *_) in lower:
    last = ranges[-1] if ranges else None
    if last and last[2] == to - c and c - last[1] in (1, 2) and last[3] in (0, c - last[1]):
        last[1], last[3] = c, c - last[1]
    else:
        ranges.append([c, c, to - c, 0])

limit = (max(classes) // BLOCK + 1) * BLOCK
words = {}
for c, value in classes.items():
    words[c // 32] = words.get(c // 32, 0) | value << 2 * (c % 32)
index, blocks = two_stages(words, limit // 32, BLOCK // 32)
assert all(flags.get(c) == 8 for c in range(0xF0000, 0xFFFFE)) and all(flags.get(c) == 8 for c in range(0x100000, 0x10FFFE))
assert not any(c & 0xFFFE == 0xFFFE for c in flags)
tags = {limit + c - 0xE0000: f for c, f in flags.items() if 0xE0000 <= c < 0xF0000}  # stand behind the rest
assert not any(limit <= c < 0xE0000 for c in flags) and max(tags) < limit + 0x200
small_index, small_blocks = two_stages({c: f for c, f in flags.items() if c < limit} | tags, limit + 0x200, SMALL)

print("/* Made by tests/golden/tokenizers/make_unicode_table.py: what the `tokenizers` package takes code points")
print(" * for. Classes: two bits for each code point, 1 letter, 2 number, 3 space. Flags: unicode.h. Lower case: first,")
print(" * last, difference, step. */")
print("#ifndef QUIPU_DATA_UNICODE_TABLE_H\n#define QUIPU_DATA_UNICODE_TABLE_H\n\n#include <stdint.h>\n")
print("/* clang-format off */")
print(f"#define UNICODE_LIMIT {limit:#x}u\n")
print_index("unicode_index", index)
print_blocks("unicode_blocks", blocks, "uint64_t", True)
print_index("unicode_flags_index", small_index)
print_blocks("unicode_flags_blocks", small_blocks, "uint8_t", False)
print(f"static const struct {{\n    uint32_t first, last;\n    int32_t  by, step;\n}} unicode_lower[{len(ranges)}] = {{")
for r in ranges:
    print(f"    {{{r[0]:#x}, {r[1]:#x}, {r[2]}, {max(r[3], 1)}}},")
print("};\n/* clang-format on */\n\n#endif")
