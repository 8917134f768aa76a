"""A small table of replacements in the form of SentencePiece's."""
import base64
import struct
import unicodedata

from tokenizers import normalizers


def charsmap(pairs):
    """A table of replacements as SentencePiece writes it: a double array and the texts."""
    blob, trie = b"", {}
    for source, to in sorted(pairs.items()):
        node = trie
        for byte in source.encode():
            node = node.setdefault(byte, {})
        node[0] = len(blob)
        blob += to.encode() + b"\0"
    units, used = {0: 0}, {0}

    def place(node, at):
        base = 1
        while any(base ^ label in used for label in node):
            base += 1
        used.update(base ^ label for label in node)
        offset = at ^ base
        assert offset < 1 << 21
        units[at] = units.get(at, 0) | offset << 10 | (1 << 8 if 0 in node else 0)
        for label, child in node.items():
            if label:
                units[base ^ label] = label
                place(child, base ^ label)
            else:
                units[base] = 1 << 31 | child

    place(trie, 0)
    size = (max(units) | 255) + 1  # as real ones, so that no step leads out
    return base64.b64encode(
        struct.pack("<I", 4 * size) + b"".join(struct.pack("<I", units.get(i, 0)) for i in range(size)) + blob
    ).decode()


replacements = {chr(c): "" for c in (*range(1, 9), 0xB, *range(0xE, 0x20), 0x7F, 0xAD)}
replacements |= {c: " " for c in "\t\n\f\r\xa0\u1680\u200b\u200e\u2028\u3000\ufeff"} | {"\r\n": " "}
replacements |= {c: unicodedata.normalize("NFKC", c) for c in {*"ﬁﬃﷺ½㎏Ⅳ①ÅℌⅧ㍿ｱｶﾞ²", *(chr(c) for c in range(0xFF01, 0xFF5F))}}
replacements |= {c: unicodedata.normalize("NFC", c) for c in ("e\u0301", "o\u0308", "A\u0300", "は\u309a", "か\u3099", "ｶﾞ", "\u1100\u1161")}


def precompiled():
    return normalizers.Precompiled(base64.b64decode(charsmap(replacements)))
