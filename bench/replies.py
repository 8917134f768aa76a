"""Replies that a model writes to many questions, as a JSON line each: text for `quipu finetune`.

    quipu serve -m MODEL --rows 16 &
    python bench/replies.py --out replies.jsonl --count 2000 --ask "{}" questions.txt \
        --ask "Summarize this text: {}" paragraphs.txt

A question is a line of a file (cut to --cut characters) within the text of its --ask. What is written holds the whole
conversation with the chat's marks, ChatML's unless --marks says otherwise, and ends as the model ended it. Questions
that --out has already are not asked again, so a run may be stopped and repeated.
"""
import argparse
import concurrent.futures
import json
import os
import random
import re
import urllib.request

MARKS = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
         "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")


def shortened(line, most):
    """Whole sentences if some fit, else whole words; without the spaces that corpora put before punctuation."""
    line = re.sub(r" ([.,;:?!')])", r"\1", " ".join(line.split())).replace("( ", "(")
    if len(line) <= most:
        return line
    cut = line[:most]
    end = max(cut.rfind(c) for c in ".?!")
    return cut[:end + 1] if end > most // 3 else cut[:cut.rfind(" ")]


def questions(a):
    """--count of them, in turn from each --ask, the lines of each in an order that --seed gives."""
    draw, kinds = random.Random(a.seed), []
    for form, path in a.ask:
        lines = sorted({shortened(s, a.cut) for s in open(path, encoding="utf-8", errors="replace")})
        lines = [form.replace("{}", s) for s in lines if len(s) >= a.least]
        draw.shuffle(lines)
        kinds.append(lines)
    mixed = [k[i] for i in range(max(map(len, kinds))) for k in kinds if i < len(k)]
    return mixed[:a.count]


def reply(a, question):
    prompt = a.marks.replace("{}", question)
    body = {"prompt": prompt, "max_tokens": a.tokens, "temperature": a.temp, "seed": a.seed}
    ask = urllib.request.Request(a.server + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(ask, timeout=600) as answer:
        choice = json.load(answer)["choices"][0]
    end = a.end if choice["finish_reason"] == "stop" else ""
    return {"question": question, "text": prompt + choice["text"] + end}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ask", nargs=2, action="append", required=True, metavar=("TEXT", "FILE"))
    p.add_argument("--out", required=True)
    p.add_argument("--server", default="http://127.0.0.1:8080")
    p.add_argument("--count", type=int, default=1000)
    p.add_argument("--tokens", type=int, default=200)
    p.add_argument("--temp", type=float, default=0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--at-once", type=int, default=16)
    p.add_argument("--cut", type=int, default=300, help="characters of a line")
    p.add_argument("--least", type=int, default=20, help="lines with fewer are no questions")
    p.add_argument("--marks", default=MARKS)
    p.add_argument("--end", default="<|im_end|>\n")
    a = p.parse_args()
    wanted, known = questions(a), set()
    if os.path.exists(a.out):
        known = {json.loads(line)["question"] for line in open(a.out, encoding="utf-8")}
    with open(a.out, "a", encoding="utf-8") as out, concurrent.futures.ThreadPoolExecutor(a.at_once) as pool:
        for r in pool.map(lambda q: reply(a, q), [q for q in wanted if q not in known]):
            out.write(json.dumps(r, ensure_ascii=False) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
