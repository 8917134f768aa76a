"""Texts that tokenizers are tried on."""
import pathlib
import random

corpus = (pathlib.Path(__file__).parent / "corpus.txt").read_bytes().decode()

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
texts += [
    "[CLS] a [SEP] [UNK] [MASK]", "Été\tRésumé naïve ÀÉÎÕÜ İstanbul ẞ ǅ Ὀδυσσεύς ΣΊΣΥΦΟΣ", "don't won't, it's  I'm -- 'quoted' (a) [b] {c}…",
    "漢字とかなカナ가각\u1100\u1161\u11a8。", "x\u00adz a\u200bb\u2060c\ufeffd \u202ertl\u202c", "\x01\x02a\x1fb\x7fc\x0bd\x0ce\x85f",
    "▁a ▁▁b▁ c▁d", "<0x41><0x0A> <0xzz>", "٣٤५६ ⅷ 三 ¼ ㊿", "$100+€20=¥3<>~`^|", "ﷺ ﬃ ½ ㎏ Ⅳ ① ｶﾞ が は\u309a", "e\u0301\u0323 \u0323\u0301e q\u0307\u0323 ö\u0323",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 👨\u200d👩\u200d👧 ☺\ufe0e ☺\ufe0f", "a" * 101 + " " + "é" * 100 + " b", "กำ นำ้ ไทย", "क्षत्रिय ক্ষ", "\r\n a\r b\n\r",
]
