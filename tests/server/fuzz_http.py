"""Random bytes in the place of HTTP: requests cut, doubled, mixed and mangled go to a live server, many connections
at once; after each round it must live, answer /health within a second and be no larger than before by --growth MB.
   fuzz_http.py QUIPU MODEL TEMPLATE [--seconds 60] [--seed N] [--growth MB]"""
import argparse, json, random, socket, time

import server as servers

parser = argparse.ArgumentParser()
parser.add_argument("quipu"), parser.add_argument("model"), parser.add_argument("template")
parser.add_argument("--seconds", type=float, default=60), parser.add_argument("--seed", type=int, default=int(time.time()))
parser.add_argument("--growth", type=float, default=64)
args = parser.parse_args()
R = random.Random(args.seed)

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
BODIES = [json.dumps(b).encode() for b in (
    CHAT, CHAT | {"stream": True}, CHAT | {"logprobs": True, "top_logprobs": 3}, {"prompt": "a b", "max_tokens": 2, "n": 2},
    {"prompt": [1, 2, 3], "echo": True, "logprobs": 1, "max_tokens": 0}, {"input": ["x", "y"]}, {"content": "x"}, {})]
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/health", "/metrics", "/v1/models", "/", "/nowhere"]
HEADERS = ["Content-Type: application/json", "Expect: 100-continue", "Transfer-Encoding: chunked", "Content-Encoding: gzip", "Connection: keep-alive",
           "Connection: Upgrade", "Upgrade: h2c", "Authorization: Bearer x", "Host: evil", "Host: a\r\nHost: b", "Range: bytes=0-", "Content-Length: -1",
           "Content-Length: 99999999999999999999", "Content-Length: 5\r\nContent-Length: 6", "X: " + "a" * 9000, "Cookie: \x01\xff", " folded", ":", "Origin: http://x"]
TOKENS = [b"\r\n", b"\n", b"\0", b"\xff\xfe", b"HTTP/1.1", b"HTTP/9.9", b"GET ", b"%00", b"../", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"{", b"[" * 500, b'"\\ud800"', b"1e999"]


def request():
    body = R.choice(BODIES)
    headers = ["Host: localhost"] * R.randint(0, 1) + R.sample(HEADERS, R.choice([0, 0, 1, 2]))
    if R.random() < 0.8: headers.append(f"Content-Length: {len(body) + R.choice([0, 0, 0, 0, 1, -1, 1000])}")
    if "Transfer-Encoding: chunked" in headers: body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    line = f"{R.choice(['POST', 'POST', 'GET', 'OPTIONS', 'HEAD', 'PUT', 'X'])} {R.choice(PATHS)} HTTP/1.{R.randint(0, 1)}"
    return ("\r\n".join([line] + headers) + "\r\n\r\n").encode("latin-1") + body


def mangled():
    data = bytearray(b"".join(request() for _ in range(R.choice([1, 1, 1, 2, 5]))))
    for _ in range(R.choice([0, 1, 1, 2, 4, 16])):
        at = R.randint(0, len(data))
        kind = R.randrange(5)
        if kind == 0: data[at:at] = R.choice(TOKENS)
        elif kind == 1: del data[at:at + R.randint(1, 40)]
        elif kind == 2 and at < len(data): data[at] = R.randrange(256)
        elif kind == 3: data[at:at] = data[R.randint(0, len(data)):][:R.randint(1, 60)]
        elif len(data) > 1: del data[R.randint(1, len(data)):]
    return bytes(data)


def send(port, data):
    """A connection that has sent some of it, in pieces; some are closed or half closed at once."""
    s = socket.create_connection(("127.0.0.1", port), timeout=0.05)
    try:
        cut = R.randint(0, len(data))
        for piece in (data[:cut], data[cut:]):
            if piece: s.sendall(piece)
        if R.random() < 0.3: s.shutdown(socket.SHUT_WR)
        if R.random() < 0.3: s.recv(R.randint(1, 4000))
    except OSError:
        pass
    return s


with servers.Server(args.quipu, args.model, args.template, "--header-timeout", "2", "--body-timeout", "2", "-c", "256", "--rows", "2") as s:
    end, rounds, sent, slowest, base = time.time() + args.seconds, 0, 0, 0.0, None
    while time.time() < end:
        held = [send(s.port, mangled()) for _ in range(32)]
        sent, rounds = sent + len(held), rounds + 1
        begin = time.time()
        answer = socket.create_connection(("127.0.0.1", s.port), timeout=10)
        answer.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.recv(4096).startswith(b"HTTP/1.1 200"), f"seed {args.seed}: /health does not answer"
        slowest = max(slowest, time.time() - begin)
        for c in held + [answer]: c.close()
        assert s.process.poll() is None, f"seed {args.seed}: the server ended with {s.process.returncode} in round {rounds}"
        size = int(open(f"/proc/{s.process.pid}/statm").read().split()[1]) / 256
        if rounds == 20: base = size
        assert base is None or size < base + args.growth, f"seed {args.seed}: {size:.0f} MB resident, {base:.0f} after 20 rounds"
    assert slowest < 1 or args.seconds < 1, f"seed {args.seed}: /health took {slowest:.2f} s"
print(f"{sent} connections of mangled HTTP, seed {args.seed}: the server lives, /health at most {1000 * slowest:.0f} ms, {size:.0f} MB")
