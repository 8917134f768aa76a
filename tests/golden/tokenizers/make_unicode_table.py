"""Writes src/data/unicode_table.h: the classes letter (\\p{L}), number (\\p{N}) and space (\\s)
as the `tokenizers` package sees them, so that words are cut at the same places.

    python make_unicode_table.py > ../../../src/data/unicode_table.h
"""
from tokenizers import Regex, pre_tokenizers

BLOCK = 256


def members(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = set()
    for base in range(0, 0x110000, 0x1000):
        text = "".join(chr(c) for c in range(base, base + 0x1000) if not 0xD800 <= c < 0xE000)
        if text:
            for piece, _ in split.pre_tokenize_str(text):
                found.update(map(ord, piece))
    return found


classes = {}
for value, pattern in ((1, r"\p{L}"), (2, r"\p{N}"), (3, r"\s")):
    for c in members(pattern):
        classes[c] = value

limit = (max(classes) // BLOCK + 1) * BLOCK
blocks, index = [], []
for base in range(0, limit, BLOCK):
    words = tuple(
        sum(classes.get(base + 32 * w + i, 0) << 2 * i for i in range(32)) for w in range(BLOCK // 32)
    )
    if words not in blocks:
        blocks.append(words)
    index.append(blocks.index(words))
assert len(blocks) <= 256

print("/* Made by tests/golden/tokenizers/make_unicode_table.py: two bits for each code point, 1 letter,")
print(" * 2 number, 3 space; blocks of 256 code points. Unicode 16. */")
print("#ifndef QUIPU_DATA_UNICODE_TABLE_H\n#define QUIPU_DATA_UNICODE_TABLE_H\n\n#include <stdint.h>\n")
print(f"#define UNICODE_LIMIT {limit:#x}u\n")
print(f"static const uint8_t unicode_index[{len(index)}] = {{")
for i in range(0, len(index), 20):
    print("    " + " ".join(f"{x}," for x in index[i : i + 20]))
print("};\n")
print(f"static const uint64_t unicode_blocks[{len(blocks)}][8] = {{")
for words in blocks:
    print("    {" + ", ".join(f"{w:#x}" for w in words[:4]) + ",")
    print("     " + ", ".join(f"{w:#x}" for w in words[4:]) + "},")
print("};\n\n#endif")
