"""What drafts gain: replies to questions at temperature 0, each with drafts and at once again without, in one process.

    python bench/drafts.py --quipu build/quipu -m MODEL --questions FILE --draft FOLDER [--draft lookup ..]

A question is a line of the file. Prints for each --draft tokens/s of all replies (tokens behind the first over the time
behind the prompt), without and with; fails if a text is another one.
"""
import argparse
import json
import subprocess
import sys

from replies import MARKS


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quipu", default="build/quipu")
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--questions", required=True)
    p.add_argument("--draft", action="append", required=True)
    p.add_argument("-n", "--tokens", type=int, default=120)
    p.add_argument("-t", "--threads", type=int, default=2)
    p.add_argument("--marks", default=MARKS)
    p.add_argument("--each", action="store_true", help="a line for each question, too")
    a = p.parse_args()
    questions = [s.strip() for s in open(a.questions, encoding="utf-8") if s.strip()]
    total = {d: dict.fromkeys(["tokens", "seconds", "plain", "calls", "drafted", "accepted"], 0) for d in a.draft}
    for q in questions:
        for d in a.draft:
            run = subprocess.run([a.quipu, "generate", "-m", a.model, "--draft", d, "--compare", "--temp", "0", "--json", "-n",
                                  str(a.tokens), "-t", str(a.threads), "-p", a.marks.replace("{}", q)],
                                 stdout=subprocess.PIPE, check=True)
            r = json.loads(run.stdout)
            if not r["draft"]["same_text"]:
                sys.exit(f"{d}: another text for {q!r}")
            t = total[d]
            t["tokens"] += r["tokens"]
            t["seconds"] += r["seconds"]
            t["plain"] += r["seconds"] * r["draft"]["speedup"]
            for k in ("calls", "drafted", "accepted"):
                t[k] += r["draft"][k]
            if a.each:
                print(f"{d}: {r['draft']['speedup']:.2f} times, {r['draft']['tokens_per_call']:.2f} a reading, "
                      f"{r['tokens']} tokens: {q[:60]}", flush=True)
    print("draft                  plain  drafted  times  tokens a reading  guesses a reading  tokens")
    for d, t in total.items():
        print(f"{d[-20:]:20} {t['tokens'] / t['plain']:7.1f}  {t['tokens'] / t['seconds']:7.1f}  {t['plain'] / t['seconds']:5.2f}  "
              f"{1 + t['accepted'] / t['calls']:16.2f}  {t['drafted'] / t['calls']:17.2f}  {t['tokens']:6}")


if __name__ == "__main__":
    main()
