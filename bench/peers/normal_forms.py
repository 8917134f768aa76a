"""Normal forms beside the `tokenizers` package's, over all code points: alone, between combining marks, taken apart.

    python bench/peers/normal_forms.py build/quipu

Prints how many of the texts differ for each form, and the first of them. Needs tokenizers.
"""

import json
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

from tokenizers import Tokenizer

BYTES = Path(__file__).resolve().parents[2] / "tests/golden/tokenizers/bytes.json"


def texts():
    for code in [*range(0x20, 0xD800), *range(0xE000, 0x30000), *range(0xE0000, 0xE0200)]:
        c = chr(code)
        apart = unicodedata.normalize("NFD", c)
        yield from (c, f"a\u0345{c}\u0334b", f"a\u0323{c}\u0301")
        if len(apart) > 1:
            yield from (apart, apart + "\u0301", "\u0301" + apart)


def main():
    lines = list(texts())
    document = json.loads(BYTES.read_text()) | {"added_tokens": []}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            file.seek(0)
            file.write(json.dumps(document | {"normalizer": {"type": form}}))
            file.truncate()
            file.flush()
            want = [e.ids for e in Tokenizer.from_file(file.name).encode_batch_fast(lines, add_special_tokens=False)]
            found = subprocess.run([sys.argv[1], "tokenize", "-m", file.name, "--no-special"], check=True,
                                   input=("\n".join(lines) + "\n").encode(), capture_output=True).stdout.decode()
            found = [list(map(int, line.split())) for line in found.split("\n")[:-1]]
            assert len(found) == len(lines)
            other = [ascii(t) for t, a, b in zip(lines, want, found) if a != b]
            print(f"{form}: {len(lines)} texts, {len(other)} differ", *other[:5], flush=True)


if __name__ == "__main__":
    main()
