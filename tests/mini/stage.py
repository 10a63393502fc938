"""What the tests of the mini-platform share: a server of their own, curl, and functions made on the spot."""
import http.client
import io
import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

PATIENCE = 20  # seconds for what belongs to other processes


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def check(condition, what):
    if not condition:
        raise Failure(what)


def equal(found, wanted, what):
    check(found == wanted, "%s: %r, not %r" % (what, found, wanted))


def eventually(condition, what, patience=PATIENCE):
    """Polls: what is waited for belongs to other processes, which tell nobody."""
    deadline = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        check(time.monotonic() < deadline, "%s: not within %d s" % (what, patience))
        select.select([], [], [], 0.01)


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        self.text = body.decode("utf-8", "replace")

    def json(self):
        return json.loads(self.text)

    def header(self, name):
        return self.headers.get(name.lower())

    def error(self):
        return self.json()["error"]["code"]

    def message(self):
        return self.json()["error"]["message"]

    def __repr__(self):
        return "%d %s" % (self.status, self.text[:400])


def tar(files, compress=False):
    """{"name": text or bytes} as an archive. Programs keep their mode."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if compress else "w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755 if data.startswith(b"\x7fELF") else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def python(code, **manifest):
    return tar({"function.json": json.dumps({"runtime": "python3", **manifest}), "main.py": code})


ECHO = "def handler(payload, context):\n    return payload\n"


class Server:
    heads = itertools.count()

    def __init__(self, binary, stage, *options, state="state", functions=None, before=None):
        self.binary, self.stage = binary, stage
        self.state = os.path.join(stage, state)
        self.options = [
            "--listen", "127.0.0.1:0", "--state-dir", self.state, "--runtime-dir", os.path.join(stage, "run"),
            "--instance", "t-mini-%d" % os.getpid(), *options]
        if functions:
            self.options += ["--functions", functions]
        self.before = before
        self.process = None
        self.start()

    def start(self, wait=True):
        ready, theirs = os.pipe()
        self.log = open(os.path.join(self.stage, "server.log"), "ab")
        self.process = subprocess.Popen(
            [self.binary, *self.options, "--ready-fd", str(theirs)], stdin=subprocess.DEVNULL, stderr=self.log,
            pass_fds=[theirs], preexec_fn=self.before)
        os.close(theirs)
        try:
            check(select.select([ready], [], [], 60)[0], "the server is not ready after 60 s")
            line = os.read(ready, 100)
        finally:
            os.close(ready)
        if not line:
            raise Failure("the server ended with %s\n%s" % (self.process.wait(), self.said()))
        self.port = int(line)
        self.url = "http://127.0.0.1:%d" % self.port
        self.token = read(os.path.join(self.state, "admin-token")).strip()

    def said(self):
        return read(os.path.join(self.stage, "server.log"))

    def stop(self, expected=0):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        equal(status, expected, "the server's exit status")

    def kill(self):
        self.process.kill()
        self.process.wait()

    # -- curl

    def curl(self, method, path, *options, body=None, admin=False, headers=(), timeout=60):
        """One request by curl, as a stranger would make it."""
        head = os.path.join(self.stage, "head-%d" % next(self.heads))
        command = ["curl", "-sS", "--max-time", str(timeout), "-X", method, "-D", head, "-o", "-"]
        if method == "HEAD":
            command = ["curl", "-sS", "--max-time", str(timeout), "--head", "-D", head, "-o", "/dev/null"]
        if admin:
            command += ["-H", "Authorization: Bearer " + self.token]
        for header in headers:
            command += ["-H", header]
        if body is not None:
            command += ["--data-binary", "@-"]
        done = subprocess.run(
            [*command, *options, self.url + path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            input=body.encode() if isinstance(body, str) else body, stdin=None if body is not None else subprocess.DEVNULL,
            timeout=timeout + 10)
        check(done.returncode == 0, "curl %s %s: %d %s" % (method, path, done.returncode, done.stderr.decode()))
        status, headers = 0, {}
        for line in read(head).splitlines():  # of a 100 Continue too, and trailers at the end
            if line.startswith("HTTP/"):
                status, headers = int(line.split()[1]), {}
            elif ":" in line:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
        os.unlink(head)
        return Answer(status, headers, done.stdout)

    def deploy(self, name, archive, expected=(200, 201)):
        answer = self.curl("PUT", "/functions/" + name, body=archive, admin=True)
        check(answer.status in expected, "deploying %s: %r" % (name, answer))
        return answer

    def call(self, name, payload="", expected=200, **more):
        answer = self.curl("POST", "/functions/%s/invocations" % name, body=payload, **more)
        equal(answer.status, expected, "calling %s: %r" % (name, answer))
        return answer

    def get(self, path, expected=200):
        answer = self.curl("GET", path, admin=True)
        equal(answer.status, expected, "GET %s: %r" % (path, answer))
        return answer

    # -- faster than curl

    def connection(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def socket(self, timeout=30):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, request, timeout=30):
        """Everything the server says to these bytes, until it closes."""
        with self.socket(timeout) as line:
            line.sendall(request)
            return read_all(line)


def read_all(line):
    found = []
    while True:
        try:
            part = line.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        found.append(part)
    return b"".join(found)


def mounts():
    return read("/proc/self/mountinfo").splitlines()


def leftovers(server):
    """What of the server is on the machine: groups, mounts, processes, folders."""
    instance = "t-mini-%d" % os.getpid()
    found = []
    for top in {line.split()[4] for line in mounts() if " - cgroup" in line}:
        for folder, names, _ in os.walk(top):
            found += [os.path.join(folder, name) for name in names if name == "faaskit-" + instance]
    found += [line for line in mounts() if server.stage in line]
    run = os.path.join(server.stage, "run")
    if os.path.isdir(run):
        found += [name for name in os.listdir(run) if instance in name]
    incoming = os.path.join(server.state, "incoming")
    if os.path.isdir(incoming):
        found += os.listdir(incoming)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if "faaskit-" + instance in read("/proc/%s/cgroup" % pid) and read("/proc/%s/stat" % pid).rpartition(")")[2][1:2] not in ("Z", "X", ""):
            found.append("process " + pid)
    return found


def main(cases):
    binary, root, name = sys.argv[1:4]
    stage = tempfile.mkdtemp(prefix="faaskit-mini-")
    os.chmod(stage, 0o755)
    servers = []

    def serve(*options, **more):
        server = Server(binary, stage, *options, **more)
        servers.append(server)
        return server

    try:
        cases[name](serve, root)
        for server in servers:
            if server.process.poll() is None:
                server.stop()
        return 0
    except Skip as why:
        print("SKIPPED: %s" % why)
        return 77
    except Failure as failure:
        print("FAILED: %s" % failure)
        return 1
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.kill()
        print(read(os.path.join(stage, "server.log"))[-4000:])
        shutil.rmtree(stage, ignore_errors=True)
