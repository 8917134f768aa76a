"""The chat page in headless Chromium, driven over DevTools' pipe.   page.py QUIPU MODEL TEMPLATE"""
import json, os, subprocess, sys, tempfile, time
from server import Server


class Browser:
    def __init__(self):
        to_browser, write = os.pipe()
        read, from_browser = os.pipe()
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

        def pipes():  # the browser reads from 3 and writes to 4
            a, b = os.dup(to_browser), os.dup(from_browser)
            os.dup2(a, 3), os.dup2(b, 4)

        self.process = subprocess.Popen(
            [os.environ.get("CHROMIUM", "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", f"--user-data-dir={self.folder.name}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.write, self.read = os.fdopen(write, "wb", 0), os.fdopen(read, "rb", 0)
        os.close(to_browser), os.close(from_browser)
        self.number, self.rest, self.events, self.session = 0, b"", [], None
        targets = self("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"): self(f"{domain}.enable")

    def receive(self):
        while b"\0" not in self.rest:
            piece = self.read.read(1 << 16)
            if not piece: raise EOFError("the browser has gone")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def __call__(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        self.write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer: raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def js(self, expression):
        r = self("Runtime.evaluate", expression=f"(async () => {{ {expression} }})()", awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in r, r["exceptionDetails"]
        return r["result"].get("value")

    def open(self, url):
        self.events.clear()
        self("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def until(self, condition, seconds=20):
        for end in [time.time() + seconds]:
            while time.time() < end:
                if self.js(f"return !!({condition})"): return
                time.sleep(0.05)
        raise AssertionError(f"never: {condition}\n{self.js('return document.body.innerText')}")

    def seen(self, method):
        return [e["params"] for e in self.events if e.get("method") == method]

    def close(self):
        self("Browser.close")
        self.process.wait(20)
        self.folder.cleanup()


def send(b, text): b.js(f"document.getElementById('text').value = {json.dumps(text)}; document.getElementById('form').requestSubmit();")
def bodies(b): return [json.loads(r["request"]["postData"]) for r in b.seen("Network.requestWillBeSent") if r["request"]["url"].endswith("/v1/chat/completions")]
def texts(b, who): return b.js(f"return [...document.querySelectorAll('.turn.{who} pre')].map(p => p.textContent)")
def colours(b): return b.js("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
def brightness(colour): return sum(int(x) for x in colour.split("(")[1].rstrip(")").split(",")[:3])


with Server(*sys.argv[1:4]) as server:
    b = Browser()
    b.open(server.url + "/")
    b.until(f"document.getElementById('model').textContent === {json.dumps(server.model)}")
    outside = [r["request"]["url"] for r in b.seen("Network.requestWillBeSent") if not r["request"]["url"].startswith((server.url, "data:"))]
    assert not outside, f"the page asks others: {outside}"

    # parameters are sent
    b.js("""for (const [k, v] of Object.entries({system: "Be brief.", temperature: "0.9", top_p: "0.8", top_k: "50", min_p: "0.01", max_tokens: "40", seed: "7"}))
            { const e = document.getElementById(k); e.value = v; e.dispatchEvent(new Event("change")); }""")
    # a message is streamed: its text grows
    b.js("""window.sizes = new Set(); new MutationObserver(() => { const p = [...document.querySelectorAll(".turn.assistant pre")].at(-1);
            if (p) window.sizes.add(p.textContent.length); }).observe(document.getElementById("talk"), {subtree: true, childList: true, characterData: true});""")
    send(b, "Hello <b>there</b> & \"you\"")
    b.until("document.querySelector('#talk .note') && document.getElementById('stop').hidden")
    body = bodies(b)[-1]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Hello <b>there</b> & "you"'}], body
    assert {k: body[k] for k in ("temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "stream")} == {
        "temperature": 0.9, "top_p": 0.8, "top_k": 50, "min_p": 0.01, "max_tokens": 40, "seed": 7, "stream": True}, body
    assert texts(b, "user") == ['Hello <b>there</b> & "you"'] and b.js("return !document.querySelector('.turn b')"), "markup in a message is text"
    first = texts(b, "assistant")
    assert len(first) == 1 and first[0], first
    assert b.js("return window.sizes.size") > 3, "the reply came in one piece"

    # retry asks anew: the same seed says the same, another something else
    click = "[...document.querySelectorAll('button')].find(b => b.textContent === %s).click();"
    b.js(click % '"Retry"')
    b.until("document.querySelector('#talk .note') && document.getElementById('stop').hidden")
    assert texts(b, "assistant") == first
    b.js("const e = document.getElementById('seed'); e.value = '8'; e.dispatchEvent(new Event('change')); " + click % '"Retry"')
    b.until("document.querySelector('#talk .note') && document.getElementById('stop').hidden")
    assert len(texts(b, "assistant")) == 1 and texts(b, "assistant") != first
    assert len(bodies(b)) == 3 and bodies(b)[-1]["messages"] == body["messages"]

    # stop ends a reply at once, on the server too; what there is stays
    b.js("const e = document.getElementById('max_tokens'); e.value = ''; e.dispatchEvent(new Event('change'));")
    for attempt in range(20):  # the model may come to an end by itself
        send(b, f"Go on {attempt}")
        b.js("""const stop = document.getElementById("stop");
                while (!stop.hidden && ![...document.querySelectorAll(".turn.assistant pre")].at(-1).textContent) await new Promise(r => setTimeout(r));
                stop.click();""")
        b.until("document.getElementById('stop').hidden")
        if b.js("return [...document.querySelectorAll('#talk .note')].at(-1).textContent") == "stopped": break
    else: raise AssertionError("no reply was stopped")
    assert texts(b, "assistant")[-1]
    server.until_idle()
    send(b, "And now?")  # and the talk goes on
    b.until("document.getElementById('stop').hidden && document.querySelectorAll('.turn.user').length === document.querySelectorAll('.turn.assistant').length")

    # a reload keeps the talk; Edit takes it back to there; New forgets it
    before = texts(b, "user")
    b("Page.reload")
    b.until("document.readyState === 'complete' && document.querySelectorAll('.turn.user').length > 0")
    assert texts(b, "user") == before
    b.js("document.querySelector('.turn.user button').click()")
    assert b.js("return document.getElementById('text').value") == before[0] and texts(b, "user") == []
    b.js("document.getElementById('new').click()")
    b.until("document.getElementById('empty')")

    # dark and light, by the system's wish and by the button
    shades = []
    for scheme in ("light", "dark"):
        b("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        shades.append([brightness(c) for c in colours(b)])
    assert shades[0][0] > 600 > shades[0][1] and shades[1][0] < 200 < shades[1][1], shades
    b.js("document.getElementById('theme').click()")
    assert brightness(colours(b)[0]) > 600

    # a narrow screen shows all of it
    b("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=True)
    assert b.js("return document.documentElement.scrollWidth") <= 360
    wrong = [e for e in b.seen("Log.entryAdded") if e["entry"]["level"] == "error"] + b.seen("Runtime.exceptionThrown") + \
            [e for e in b.seen("Runtime.consoleAPICalled") if e["type"] in ("error", "warning")]
    assert not wrong, wrong
    server.restart(key="sesame")  # with a key: the page says so, and works once it is given
    b.open(server.url + "/")
    b.until("document.getElementById('model').textContent.includes('API key')")
    b.js("const e = document.getElementById('key'); e.value = 'sesame'; e.dispatchEvent(new Event('change'));")
    b.until(f"document.getElementById('model').textContent === {json.dumps(server.model)}")
    send(b, "Hi")
    b.until("document.querySelector('#talk .note') && document.getElementById('stop').hidden")
    assert texts(b, "assistant")[-1]
    b.close()
print("the page: loads without others, sends parameters, streams, stops, retries, edits, is dark and light, asks for a key")
