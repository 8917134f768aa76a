"""Mixed load on a server, its memory and what /health takes meanwhile.
   load.py QUIPU MODEL [--minutes 60] [--slow 1000] [--json]
Eight clients ask for chats (whole and streamed), completions, scores, embeddings and tokens, some leave in the
middle, some send nonsense; `slow` more connections send a byte now and then and are closed at their deadline.
Memory is sampled (resident, less pages of files: weights that are touched first are no growth); its growth is that of
the last tenth's median over the second tenth's."""
import argparse, json, multiprocessing, random, signal, socket, statistics, subprocess, sys, threading, time

parser = argparse.ArgumentParser()
parser.add_argument("quipu"), parser.add_argument("model")
parser.add_argument("--minutes", type=float, default=60), parser.add_argument("--slow", type=int, default=1000)
parser.add_argument("--clients", type=int, default=8), parser.add_argument("--threads", default="1")
parser.add_argument("--template", default=None), parser.add_argument("--limit", type=float, default=0.01, help="of growth")
args = parser.parse_args()

command = [args.quipu, "serve", "-m", args.model, "--port", "0", "-q", "-t", args.threads, "--rows", "4", "--queue", "16", "-c", "512",
           "--header-timeout", "10", "--body-timeout", "10"] + (["--chat-template", args.template] if args.template else [])
server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
line = server.stderr.readline()
port = int(line.split("127.0.0.1:")[1].split()[0])
threading.Thread(target=lambda: [sys.stderr.write(text) for text in server.stderr], daemon=True).start()
end = time.time() + 60 * args.minutes
counts, lock = {}, threading.Lock()


def count(key):
    with lock:
        counts[key] = counts.get(key, 0) + 1


def ask(path, body, leave=None, method="POST", raw=None):
    """The status and the body; leave: bytes of the answer after which to go away."""
    data = raw if raw is not None else json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=120) as s:
        s.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = b""
        while leave is None or len(answer) < leave:
            try:
                piece = s.recv(65536)
            except ConnectionResetError:
                break
            if not piece: break
            answer += piece
    return int(answer[9:12] or 0) if answer else 0, answer


def client(number):
    R = random.Random(number)
    words = "the of and to in a is that for it as was with be by on not he his but".split()
    while time.time() < end:
        text = " ".join(R.choice(words) for _ in range(R.randint(1, 60)))
        kind = R.randrange(12)
        sampling = {"temperature": R.choice([0, 0.8]), "max_tokens": R.randint(1, 48), "seed": R.randint(0, 99)}
        chat = {"messages": [{"role": "user", "content": text}]} | sampling
        if kind < 3: status, _ = ask("/v1/chat/completions", chat | {"stream": kind == 0, "logprobs": kind == 1, **({"top_logprobs": 5} if kind == 1 else {})})
        elif kind < 5: status, _ = ask("/v1/completions", {"prompt": text, "n": kind - 2, "stop": ["."]} | sampling)
        elif kind == 5: status, _ = ask("/v1/completions", {"prompt": [text, "x"], "max_tokens": 1, "echo": True, "logprobs": 2})
        elif kind == 6: status, _ = ask("/v1/embeddings", {"input": [text] * R.randint(1, 9)})
        elif kind == 7: status, _ = ask("/tokenize", {"prompt": text * R.randint(1, 50)})
        elif kind == 8: status = ask("/v1/chat/completions", chat | {"stream": True, "max_tokens": 400}, leave=R.randint(0, 4000)) and "left"
        elif kind == 9: status = ask("/v1/completions", {"prompt": text, "max_tokens": 400}, leave=0) and "left"
        elif kind == 10: status, _ = ask(R.choice(["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/nothing"]), None, raw=R.randbytes(R.randint(0, 2000)))
        else: status, _ = ask("/v1/completions", {"prompt": text * 100, "max_tokens": 1})
        count(str(status))
        if status == 429: time.sleep(0.05)


def slow():
    """Keeps `slow` connections open, each of which sends a byte now and then."""
    R, held = random.Random(1), []
    while time.time() < end:
        while len(held) < args.slow and time.time() < end:
            try:
                s = socket.create_connection(("127.0.0.1", port), timeout=5)
                s.sendall(R.choice([b"GET /health HTTP/1.1\r\nHost: ", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n{", b"G"]))
                held.append(s)
            except OSError:
                time.sleep(0.1)
        alive = []
        for s in held:
            try:
                s.send(b"x")
                s.setblocking(False)
                if s.recv(1, socket.MSG_PEEK) is not None: raise OSError
            except BlockingIOError:
                alive.append(s)
            except OSError:
                s.close()
                count("slow ones closed")
        held = alive
        time.sleep(1)
    for s in held: s.close()


def ask_health(results):
    """In a process of its own: the clients here would keep it from the clock."""
    times, wrong = [], []
    while time.time() < end:
        begin = time.perf_counter()
        try:
            status = ask("/health", None, method="GET", raw=b"")[0]
        except OSError as e:
            status = str(e)
        times.append(time.perf_counter() - begin)
        if status != 200: wrong.append(f"health {status}")
        time.sleep(0.05)
    results.put((times, wrong))


def guarded(work, *arguments):
    def run():
        try:
            work(*arguments)
        except Exception as e:  # noqa: BLE001 any failure of a client counts
            count(f"{work.__name__}: {e!r}")
    return threading.Thread(target=run)


results = multiprocessing.Queue()
multiprocessing.Process(target=ask_health, args=(results,)).start()
threads = [guarded(client, i) for i in range(args.clients)] + ([guarded(slow)] if args.slow else [])
for t in threads: t.start()


def resident():
    kib = dict(l.split()[:2] for l in open(f"/proc/{server.pid}/status") if l.startswith(("VmRSS:", "RssFile:")))
    return int(kib["VmRSS:"]) - int(kib["RssFile:"])


memory = []
while time.time() < end and server.poll() is None:
    memory.append(resident())
    time.sleep(min(5, max(0.2, args.minutes * 60 / 200)))
for t in threads: t.join()
health, wrong = results.get()
for key in wrong: count(key)
died = server.poll() is not None
_, metrics = ask("/metrics", None, method="GET", raw=b"") if not died else (0, b"")
server.send_signal(signal.SIGTERM)
status = server.wait(60)
tenth = max(1, len(memory) // 10)
tenths = [statistics.median(memory[i * tenth:(i + 1) * tenth] or memory) for i in range(10)]
growth = tenths[9] / tenths[1] - 1
health.sort()
p99 = health[int(len(health) * 0.99)] * 1000
print(json.dumps({"minutes": args.minutes, "answers": counts, "memory_kib": {"max": max(memory), "tenths": tenths}, "growth": round(growth, 5),
                  "health_ms": {"p50": round(health[len(health) // 2] * 1000, 2), "p99": round(p99, 2), "max": round(health[-1] * 1000, 1), "count": len(health)},
                  "rows_busy": next((int(l.split()[1]) for l in metrics.decode().splitlines() if l.startswith("quipu_rows_busy ")), None), "exit": status}))
failures = [key for key in counts if ": " in key or key.startswith("health") or key == "500"]
if died or status or failures or growth >= args.limit: sys.exit(f"failed: {failures or ''} exit {status}, growth {growth:.4f}")
