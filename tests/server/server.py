"""A quipu serve of one's own."""
import os, signal, subprocess, threading, time, urllib.request


class Server:
    def __init__(self, quipu, model, template, *options):
        self.command = [quipu, "serve", "-m", model, "--chat-template", template, "-q", *options]
        self.port, self.lines = 0, []
        self.restart()

    def restart(self, key=""):
        if self.port: self.stop()
        self.process = subprocess.Popen(self.command + ["--port", str(self.port)], stderr=subprocess.PIPE, text=True,
                                        env=os.environ | {"QUIPU_API_KEY": key})
        line = self.process.stderr.readline()
        assert " serves " in line, line + self.process.stderr.read()
        self.url = next(w for w in line.split() if w.startswith("http://"))
        self.port, self.model = int(self.url.rsplit(":", 1)[1]), line.split(" serves ")[1].split(" (")[0]
        threading.Thread(target=lambda p=self.process: self.lines.extend(p.stderr), daemon=True).start()

    def metric(self, name):
        text = urllib.request.urlopen(self.url + "/metrics").read().decode()
        return int(next(l for l in text.splitlines() if l.startswith(name + " ")).split()[1])

    def until_idle(self):
        for _ in range(100):
            if self.metric("quipu_rows_busy") == 0: return
            time.sleep(0.05)
        raise AssertionError("a row stays busy")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        assert status == 0, (status, self.lines)

    def __enter__(self): return self
    def __exit__(self, error, *_):
        if error: self.process.kill()
        else: self.stop()
