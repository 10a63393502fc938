"""mini_test.py BINARY ROOT CASE: the mini-platform from outside, as its users see it.

If these failed: what docs/http.md promises would not hold, calls would be lost at a stop or deploys at a crash, or
a crowd of clients would take the platform down.
"""
import concurrent.futures
import hashlib
import hmac
import base64
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from stage import (ECHO, Failure, Skip, check, equal, eventually, leftovers, main, python, read, read_all, tar)


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def worker_beside(serve_binary):
    return read_bytes(os.path.join(os.path.dirname(serve_binary), "faaskit-mini.functions/hello-cpp/hello"))


# ------------------------------------------------------------------------------------------------- deploys


def deploys(serve, root):
    """Python, Node and C++ come in as archives, are called, replaced and removed."""
    server = serve()
    made = server.deploy("one", python(ECHO), expected=[201])
    equal((made.json()["name"], made.json()["version"], made.json()["owner"]), ("one", 1, "admin"), "the answer")
    check(made.json()["code"].startswith("copied:sha256:"), "the code's name: %r" % made)
    answer = server.call("one", "payload \u00e4", headers=["Content-Type: text/x-test"])
    equal(answer.text, "payload \u00e4", "the echo")
    equal(answer.header("x-faaskit-start"), "cold", "the start")
    equal(answer.header("x-faaskit-version"), "1", "the version")
    check(answer.header("x-faaskit-sandbox").startswith("sb-"), "the sandbox: %r" % answer.headers)
    check(int(answer.header("x-faaskit-wait-us")) > int(answer.header("x-faaskit-duration-us")) > 0,
          "the times of a cold call: %r" % answer.headers)
    equal(server.call("one", "again").header("x-faaskit-start"), "warm", "the second start")

    node = tar({"function.json": json.dumps({"runtime": "node", "handler": "index:handler"}),
                "index.js": "exports.handler = (payload) => payload.toString().toUpperCase();\n"})
    server.deploy("two", node, expected=[201])
    equal(server.call("two", "abc").text, "ABC", "node")

    cpp = tar({"function.json": json.dumps({"runtime": "exec", "handler": "hello"}),
               "hello": worker_beside(server.binary)}, compress=True)
    server.deploy("three", cpp, expected=[201])
    equal(server.call("three", "you").text, "Hello, you, from C++!\n", "C++")

    # A redeploy: never older code afterwards.
    again = server.deploy("one", python("def handler(p, c):\n    return 'second'\n"), expected=[200])
    equal(again.json()["version"], 2, "the second version")
    answer = server.call("one", "x")
    equal((answer.text, answer.header("x-faaskit-version")), ("second", "2"), "after the redeploy")
    listed = server.get("/functions").json()["functions"]
    equal([(f["name"], f["version"], f["runtime"]) for f in listed],
          [("one", 2, "python3"), ("three", 1, "exec"), ("two", 1, "node")], "the list")
    one = server.get("/functions/one").json()
    equal([v["version"] for v in one["versions"]], [2, 1], "the versions kept")

    equal(server.curl("DELETE", "/functions/one", admin=True).status, 204, "the removal")
    equal(server.call("one", "x", expected=404).error(), "not_found", "a removed function")
    equal(server.curl("DELETE", "/functions/one", admin=True).status, 404, "a second removal")
    eventually(lambda: not [s for s in server.get("/sandboxes").json()["sandboxes"] if s["function"] == "one"],
               "sandboxes of a removed function go")
    check(server.deploy("one", python(ECHO), expected=[201]).json()["version"] > 2, "versions go on after a removal")
    server.stop()
    equal(leftovers(server), [], "what is left")


def paths(serve, root):
    """Folders of the host: copied, or used in place."""
    server = serve()  # the examples beside the program
    for name, language in (("hello-python", "Python"), ("hello-node", "Node"), ("hello-cpp", "C++")):
        for kind in ("copied", "mounted"):
            answer = server.curl("PUT", "/functions/" + name, body=json.dumps({"path": name, "kind": kind}), admin=True,
                                 headers=["Content-Type: application/json"])
            check(answer.status in (200, 201), "%s %s: %r" % (name, kind, answer))
            check(answer.json()["code"].startswith(kind + ":"), "the code's kind: %r" % answer)
            equal(server.call(name, "you").text, "Hello, you, from %s!\n" % language, "%s %s" % (name, kind))
    for path in ("../..", "/etc", "no-such-folder"):
        answer = server.curl("PUT", "/functions/x", body=json.dumps({"path": path}), admin=True,
                             headers=["Content-Type: application/json"])
        check(answer.status in (400, 404), "the path %s: %r" % (path, answer))
    server.stop()
    nothing = os.path.join(server.stage, "nothing")
    os.mkdir(nothing)
    other = serve(functions=nothing)
    answer = other.curl("PUT", "/functions/x", body='{"path": "hello-python"}', admin=True,
                        headers=["Content-Type: application/json"])
    equal(answer.status, 404, "a folder that is not beneath --functions")


def refusals(serve, root):
    """What is refused leaves the working version as it is, and nothing behind."""
    server = serve()
    server.deploy("f", python("def handler(p, c):\n    return 'good'\n"))
    bad = {
        "no archive": (b"this is no archive at all, whatever else it is" * 30, 400, ""),
        "no manifest": (tar({"main.py": ECHO}), 400, "function.json"),
        "an unknown field": (python(ECHO, frobnicate=1), 400, "frobnicate"),
        "a wrong value": (python(ECHO, timeout_ms=0), 400, "timeout_ms"),
        "a syntax error": (python("def handler(p, c:\n"), 400, "main.py"),
        "too little memory": (python(ECHO, memory_mb=4), 400, "its memory limit, 4194304 bytes"),
        "no handler": (python("x = 1\n"), 400, "handler"),
        "a way out": (tar({"function.json": "{}", "main.py": ECHO, "../../evil": "x"}), 400, "evil"),
        "a bomb": (tar({"function.json": "{}", "main.py": ECHO, "zeros": bytes(64 << 20)}, compress=True), 413, "max_ratio"),
        "a foreign program": (tar({"function.json": json.dumps({"runtime": "exec", "handler": "hello"}),
                                   "hello": b"\x7fELF" + b"\x01\x01\x01" + b"\0" * 200}), 400, ""),
    }
    for what, (archive, status, words) in bad.items():
        answer = server.curl("PUT", "/functions/f", body=archive, admin=True)
        equal(answer.status, status, "%s: %r" % (what, answer))
        check(words in answer.message(), "%s is said by name: %r" % (what, answer))
        equal(server.call("f", "").text, "good", "the working version after " + what)
    equal(server.get("/functions/f").json()["version"], 1, "the version")
    equal(os.listdir(os.path.join(server.state, "incoming")), [], "bodies on disk")
    store = sum(len(files) for _, _, files in os.walk(os.path.join(server.state, "code", "blobs")))
    equal(store, 1, "codes in the store")


def busy_yard(serve, root):
    """As many deploys as there may be at once hold up no view."""
    server = serve()
    slow = python("x = [%s]\n" % ", ".join(map(str, range(300000))) + ECHO, memory_mb=512)
    incoming = os.path.join(server.state, "incoming")
    with concurrent.futures.ThreadPoolExecutor(8) as crowd:
        deploys = [crowd.submit(server.curl, "PUT", "/functions/f%d" % i, body=slow, admin=True) for i in range(8)]
        eventually(lambda: [os.path.getsize(os.path.join(incoming, name)) for name in os.listdir(incoming)]
                   == [len(slow)] * 8, "all bodies are there")
        server.get("/stats")
        equal([deploy.result() for deploy in deploys if deploy.done()], [], "deploys that ended before the view came")
        for deploy in deploys:
            equal(deploy.result().status, 201, repr(deploy.result()))


def no_limits(serve, root):
    """What the platform itself refuses leaves the version that works as it is, also after a restart."""
    memory = [line.split()[4] for line in read("/proc/self/mountinfo").splitlines()
              if " - cgroup " in line and "memory" in line.split()[-1].split(",")]
    if os.geteuid() != 0 or not memory:
        raise Skip("needs root and a memory controller of cgroup v1, to hide it")
    server = serve()
    server.stop()
    hidden = os.path.join(server.stage, "hidden")
    with open(hidden, "w") as file:
        file.write('#!/bin/sh\nexec unshare -m sh -c \'umount -l "$1" && shift && exec "$@"\' sh %s %s "$@"\n'
                   % (shlex.quote(memory[0]), shlex.quote(server.binary)))
    os.chmod(hidden, 0o755)
    server.binary = hidden
    server.start()
    server.deploy("f", python("def handler(p, c):\n    return 'good'\n", minimum_isolation="partial"))
    answer = server.curl("PUT", "/functions/f", body=python(ECHO), admin=True)
    equal((answer.status, answer.error()), (400, "invalid_argument"), repr(answer))
    check("memory" in answer.message() and "partial" in answer.message(), "the reason: %r" % answer)
    for _ in range(2):
        equal(server.call("f", "").text, "good", "the working version")
        equal(server.get("/functions/f").json()["version"], 1, "its number")
        equal(server.curl("PUT", "/functions/g", body=python(ECHO), admin=True).status, 400, "a new function")
        equal([f["name"] for f in server.get("/functions").json()["functions"]], ["f"], "what is on record")
        server.stop()
        server.start()


# ------------------------------------------------------------------------------------------------- errors


FAULTS = """
import os, sys, time, resource
def handler(payload, context):
    what = payload.decode()
    if what == "raise":
        raise ValueError("a value I did not like")
    if what == "exit":
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)
    if what == "hang":
        time.sleep(60)
    return what
"""


def errors(serve, root):
    """Every status of the table in docs/http.md, with its code and its message."""
    server = serve("--max-payload-bytes", "100000", "--max-archive-bytes", "200000")
    seen = set()

    def expect(answer, status, code, words=""):
        seen.add((status, code))
        equal((answer.status, answer.error()), (status, code), repr(answer))
        check(answer.message() and words in answer.message(), "%r says %r" % (answer, words))
        equal(answer.header("content-type"), "application/json", "the error's type")
        return answer

    server.deploy("f", python(FAULTS, timeout_ms=1500, max_sandboxes=1, max_waiters=1))
    expect(server.curl("PUT", "/functions/Bad!", body=b"x", admin=True), 400, "invalid_argument", "Bad!")
    expect(server.curl("POST", "/functions/f/invocations", body="x", headers=["X-Faaskit-Timeout-Ms: soon"]), 400,
           "invalid_argument", "soon")
    expect(server.curl("GET", "/records?kind=lukewarm", admin=True), 400, "invalid_argument", "lukewarm")
    expect(server.curl("GET", "/functions"), 401, "unauthenticated", "admin token")
    expect(server.curl("GET", "/functions", headers=["Authorization: Bearer fa_wrong"]), 403, "permission_denied")
    expect(server.curl("GET", "/nowhere"), 404, "not_found", "/nowhere")
    expect(server.curl("POST", "/functions/g/invocations", body="x"), 404, "not_found", "'g'")
    wrong = expect(server.curl("DELETE", "/healthz"), 405, "method_not_allowed", "DELETE")
    equal(wrong.header("allow"), "GET", "Allow")
    expect(server.curl("POST", "/functions/f/invocations", body=b"x" * 100001), 413, "payload_too_large", "100000")
    expect(server.curl("PUT", "/functions/g", body=b"x" * 200001, admin=True), 413, "payload_too_large", "200000")
    # In chunks nobody says beforehand how much will come.
    expect(server.curl("POST", "/functions/f/invocations", body=b"x" * 100001, headers=["Transfer-Encoding: chunked"]),
           413, "payload_too_large", "100000")
    expect(server.curl("GET", "/functions", headers=["X-Long: " + "x" * 20000]), 431, "header_too_large",
           "16384")
    expect(server.call("f", "raise", expected=502), 502, "function_failed", "a value I did not like")
    died = expect(server.call("f", "exit", expected=502), 502, "sandbox_died", "3")
    check("last words" in died.json()["error"]["log_tail"], "the end of stderr: %r" % died)
    late = expect(server.call("f", "hang", expected=504), 504, "deadline_exceeded")
    expect(server.call("f", "hang", expected=504, headers=["X-Faaskit-Timeout-Ms: 100"]), 504, "deadline_exceeded")
    del late

    # One runs, one waits, the third is one too many.
    with concurrent.futures.ThreadPoolExecutor(8) as crowd:
        answers = list(crowd.map(lambda _: server.curl("POST", "/functions/f/invocations", body="hang"), range(8)))
    many = [answer for answer in answers if answer.status == 429]
    check(many, "nobody was refused: %r" % answers)
    expect(many[0], 429, "too_many_waiters", "max_waiters is 1")
    equal(many[0].header("retry-after"), "1", "Retry-After")

    # A change while another of the same function is under way.
    slow = python("import time\ntime.sleep(0)\n" + ECHO, **{})
    with concurrent.futures.ThreadPoolExecutor(8) as crowd:
        answers = list(crowd.map(lambda _: server.curl("PUT", "/functions/c", body=slow, admin=True), range(8)))
    busy = [answer for answer in answers if answer.status == 409]
    check(busy, "no conflict: %r" % answers)
    expect(busy[0], 409, "conflict", "under way")

    # Its code is well, its start is not.
    server.deploy("dead", python("import sys\nprint('cannot go on', file=sys.stderr)\nsys.exit(7)\n" + ECHO,
                                 timeout_ms=30000))
    dead = expect(server.call("dead", "x", expected=503), 503, "start_failed", "7")
    check("cannot go on" in dead.text, "the end of stderr of a failed start: %r" % dead)
    # After so many it is not tried for a while, and the callers hear why at once.
    opened = lambda: server.get("/stats").json()["functions"]["dead"]["breaker"] == "open"
    for _ in range(20):
        if opened():
            break
        server.call("dead", "x", expected=503)
    check(opened(), "the breaker stays closed")
    tried = server.get("/stats").json()["functions"]["dead"]["starts_admitted"]
    dead = expect(server.call("dead", "x", expected=503), 503, "start_failed",
                  "starts in a row failed")
    check("cannot go on" in dead.text, "the last error of an open breaker: %r" % dead)
    equal(dead.header("retry-after"), "1", "Retry-After")
    equal(server.get("/stats").json()["functions"]["dead"]["starts_admitted"], tried, "starts while it is open")
    check('faaskit_breaker_open{function="dead"} 1' in server.get("/metrics").text, "its metric")

    # What breaks the protocol is not served again.
    server.deploy("liar", python("import os\ndef handler(p, c):\n    if p:\n        os.write(3, b'garbage' * 100)\n    return p\n"))
    expect(server.call("liar", "x", expected=502), 502, "protocol_error", "broke the protocol")
    equal(server.call("liar", "").header("x-faaskit-start"), "cold", "after the one that broke the protocol")
    server.stop()

    # A state folder without room. What works goes on, and when there is room so do deploys.
    if os.geteuid() == 0:
        small = os.path.join(server.stage, "small")
        os.mkdir(small, 0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", small], check=True)
        try:
            full = serve(state="small")
            full.deploy("f", python(ECHO))
            big = tar({"function.json": "{}", "main.py": ECHO, "data": os.urandom(3 << 20)})
            expect(full.curl("PUT", "/functions/f", body=big, admin=True), 507, "insufficient_storage", "No space left")
            equal(os.listdir(os.path.join(small, "incoming")), [], "half a body")
            equal(full.call("f", "still").text, "still", "on a full disk")
            full.deploy("f", python(ECHO + "\n"), expected=[200])
            full.stop()
        finally:
            subprocess.run(["umount", "-l", small], check=True)
    else:
        seen.add((507, "insufficient_storage"))

    # On record, and not allowed any more.
    other = serve("--allow-host-network", "--max-functions", "2", "--max-memory-mb", "300", "--max-starts", "2",
                  state="other")
    answer = other.curl("PUT", "/functions/huge", body=python(ECHO, memory_mb=301), admin=True)
    equal(answer.status, 400, "more memory than all may have: %r" % answer)
    check("300" in answer.message() or "314572800" in answer.message(), "the budget: %r" % answer)
    other.deploy("net", python(ECHO, network="host"))
    other.deploy("slow", python("import time\ndef handler(p, c):\n    time.sleep(1)\n    return p\n", max_sandboxes=1))
    expect(other.curl("PUT", "/functions/third", body=python(ECHO), admin=True), 507, "insufficient_storage",
           "2 are allowed")
    other.stop()
    other.options.remove("--allow-host-network")
    other.start()
    expect(other.call("net", "x", expected=503), 503, "unavailable", "allow_host_network")
    # One runs and is finished, the other waits and is sent away.
    with concurrent.futures.ThreadPoolExecutor(2) as crowd:
        answers = [crowd.submit(other.curl, "POST", "/functions/slow/invocations", body="x") for _ in range(2)]
        figures = lambda: other.get("/stats").json()["functions"]["slow"]
        eventually(lambda: figures()["leased"] == 1 and figures()["waiters"] == 1, "one runs, one waits")
        other.stop()
        ran, waited = sorted((answer.result() for answer in answers), key=lambda answer: answer.status)
    equal((ran.status, ran.text), (200, "x"), "who ran")
    equal(expect(waited, 503, "stopping").header("retry-after"), "1", "Retry-After")

    table = set()
    for line in read(os.path.join(root, "docs/http.md")).splitlines():
        row = re.match(r"\| (\d{3}) \| (.*?) \|", line)
        if row:
            table |= {(int(row.group(1)), code) for code in re.findall(r"`(\w+)`", row.group(2))}
    check(table, "docs/http.md has no table of errors")
    equal(table - seen, {(500, "internal")}, "documented and not provoked; 500 is for what nobody has found")
    equal(seen - table, set(), "provoked and not documented")


# ------------------------------------------------------------------------------------------------- access


def access(serve, root):
    """Who may do what: hosts, origins, keys."""
    server = serve("--host", "Mini.Example", "--allow-origin", "https://good.example")
    server.deploy("f", python(ECHO))
    equal(server.curl("GET", "/healthz").status, 200, "health")
    for path in ("/functions", "/sandboxes", "/stats", "/metrics", "/records", "/functions/f", "/functions/f/logs",
                 "/functions/f/keys"):
        equal(server.curl("GET", path).error(), "unauthenticated", path + " without a token")
        equal(server.curl("GET", path, headers=["Authorization: Basic Zm9v"]).status, 401, path + " with another scheme")
        equal(server.curl("GET", path, admin=True).status, 200, path + " with it")
    for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("mini.example", 200),
                         ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.evil.example:80", 403)):
        equal(server.curl("POST", "/functions/f/invocations", body="x", headers=["Host: " + host]).status, status, host)
    equal(server.curl("GET", "/functions", admin=True, headers=["Origin: https://good.example"]).status, 403,
          "an admin operation of a web page")
    equal(server.call("f", "x", headers=["Origin: https://good.example"]).text, "x", "an allowed page")
    equal(server.call("f", "x", expected=403, headers=["Origin: null"]).error(), "permission_denied", "another page")

    # The first key closes the function; two are valid at once; the third must wait for one to go.
    first = server.curl("POST", "/functions/f/keys", admin=True)
    equal(first.status, 201, "the first key: %r" % first)
    check(first.json()["key"].startswith("fk_"), "the key")
    equal(server.call("f", "x", expected=401).error(), "unauthenticated", "no key")
    equal(server.call("f", "x", expected=403, headers=["X-Api-Key: fk_" + "A" * 43]).error(), "permission_denied",
          "a wrong key")
    second = server.curl("POST", "/functions/f/keys", admin=True)
    equal(server.curl("POST", "/functions/f/keys", admin=True).error(), "conflict", "a third key")
    for key in (first, second):
        equal(server.call("f", "x", headers=["Authorization: Bearer " + key.json()["key"]]).text, "x", "as a bearer")
        equal(server.call("f", "x", headers=["X-Api-Key: " + key.json()["key"]]).text, "x", "as X-Api-Key")
    server.deploy("g", python(ECHO))
    server.curl("POST", "/functions/g/keys", admin=True)
    server.call("g", "x", expected=403, headers=["X-Api-Key: " + first.json()["key"]])
    server.deploy("f", python("def handler(p, c):\n    return 'new'\n"))
    server.call("f", "x", expected=401)  # a redeploy opens nothing
    equal(server.curl("DELETE", "/functions/f/keys/" + first.json()["id"], admin=True).status, 204, "revoking")
    server.call("f", "x", expected=403, headers=["X-Api-Key: " + first.json()["key"]])
    equal([k["id"] for k in server.get("/functions/f/keys").json()["keys"]], [second.json()["id"]], "the keys left")
    check(first.json()["key"] not in read(os.path.join(server.state, "registry/registry.db")), "keys are hashed")
    equal(server.curl("DELETE", "/functions/f/keys", admin=True).status, 204, "opening")
    server.call("f", "x")
    server.deploy("h", python(ECHO, requires_key=True))
    server.call("h", "x", expected=401)  # by its manifest, with no key at all


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token_of(secret, algorithm="HS256", **claims):
    claims = {"sub": "alice", "aud": "mini", "exp": int(time.time()) + 600, **claims}
    head = base64url(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    text = head + "." + base64url(json.dumps(claims).encode())
    signature = hmac.new(secret, text.encode(), hashlib.sha256).digest() if algorithm == "HS256" else b""
    return text + "." + base64url(signature)


def tokens(serve, root):
    """A signed token tells the function who calls; a bad one is refused; its subject owns what it deploys."""
    secret = b"s" * 40
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), "faaskit-mini-secret-%d" % os.getpid())
    with open(path, "wb") as file:
        file.write(secret + b"\n")
    try:
        server = serve("--jwt-hs256-file", path, "--jwt-audience", "mini", "--jwt-deploy")
    finally:
        os.unlink(path)
    server.deploy("who", python(
        "def handler(p, c):\n    return dict(c.metadata).get(b':subject', b'None')\n"))
    good = ["Authorization: Bearer " + token_of(secret)]
    equal(server.call("who", "", headers=good).text, "alice", "the subject")
    equal(server.call("who", "", headers=["X-Faaskit-Subject: mallory"]).text, "None", "a subject nobody signed")
    for what, bad in (("none", token_of(b"", "none")), ("expired", token_of(secret, exp=int(time.time()) - 600)),
                      ("another audience", token_of(secret, aud="other")), ("another key", token_of(b"t" * 40))):
        equal(server.call("who", "", expected=401, headers=["Authorization: Bearer " + bad]).error(), "unauthenticated",
              what)
    own = server.curl("PUT", "/functions/mine", body=python(ECHO), headers=good)
    equal((own.status, own.json().get("owner")), (201, "jwt:alice"), "a deploy of a subject: %r" % own)
    bob = ["Authorization: Bearer " + token_of(secret, sub="bob")]
    for method, path, body in (("PUT", "/functions/mine", python(ECHO)), ("DELETE", "/functions/mine", None),
                               ("GET", "/functions/mine/logs", None), ("POST", "/functions/mine/keys", None)):
        equal(server.curl(method, path, body=body, headers=bob).status, 403, "%s %s of another" % (method, path))
    equal(server.curl("GET", "/functions", headers=good).status, 403, "the list is the administrator's")
    server.deploy("mine", python(ECHO))  # the administrator may, and it stays alice's
    equal(server.get("/functions/mine").json()["owner"], "jwt:alice", "the owner")
    equal(server.curl("DELETE", "/functions/mine", headers=good).status, 204, "one's own")


# ------------------------------------------------------------------------------------------------- streams


STREAM = """
import time
def handler(payload, context):
    what = payload.decode().split()
    if what[0] == "slow":
        def parts():
            yield b"first\\n"
            time.sleep(1.5)
            yield b"second\\n"
        return parts()
    if what[0] == "big":
        def parts():
            for i in range(int(what[1])):
                yield bytes([i % 256]) * 65536
        return parts()
    if what[0] == "broken":
        def parts():
            yield b"some of it\\n"
            raise ValueError("no more")
        return parts()
    return payload
"""


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", read("/proc/%d/status" % pid)).group(1)) << 10


def chunked(server, payload):
    line = server.socket()
    line.sendall(("POST /functions/s/invocations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                  "Content-Length: %d\r\n\r\n%s" % (len(payload), payload)).encode())
    return line


def streams(serve, root):
    """Replies in parts: the first arrives before the last is made; a slow reader costs no memory."""
    server = serve()
    server.deploy("s", python(STREAM))
    server.call("s", "warm up")
    began = time.monotonic()
    with chunked(server, "slow") as line:
        head = b""
        while b"first\n" not in head:
            head += line.recv(65536)
        first = time.monotonic() - began
        rest = head + read_all(line)
    total = time.monotonic() - began
    check(first < total - 1.0, "the first part came after %.2f s of %.2f s" % (first, total))
    check(b"Transfer-Encoding: chunked" in rest and b"Trailer: X-Faaskit-Duration-Us" in rest, repr(rest))
    check(re.search(rb"\r\n0\r\nX-Faaskit-Duration-Us: \d+\r\n\r\n$", rest), "the trailer: %r" % rest)
    check(b"X-Faaskit-Start: warm" in rest, "the start kind")

    answer = server.call("s", "big 64")
    equal(len(answer.body), 64 * 65536, "a long reply")
    equal(answer.body, b"".join(bytes([i]) * 65536 for i in range(64)), "its content")

    # 64 MiB for somebody who reads nothing at first.
    before = resident(server.process.pid)
    with chunked(server, "big 1024") as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        eventually(lambda: line.recv(1), "the beginning")
        peak = 0
        stop = time.monotonic() + 2
        while time.monotonic() < stop:
            peak = max(peak, resident(server.process.pid))
        size = len(read_all(line))
    check(size > 64 << 20, "the slow reader got %d bytes" % size)
    check(peak - before < 24 << 20, "memory grew by %d MiB for a slow reader" % ((peak - before) >> 20))

    # A reply that ends early is not taken for a whole one.
    with chunked(server, "broken") as line:
        found = read_all(line)
    check(b"some of it" in found and not found.endswith(b"0\r\n\r\n") and b"Duration" not in found.split(b"\r\n\r\n", 1)[1],
          "a broken reply: %r" % found)
    equal(server.call("s", "still there").text, "still there", "afterwards")


ASGI = """
import asyncio
async def app(scope, receive, send):
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    headers = {k.decode(): v.decode() for k, v in scope["headers"]}
    lines = [scope["method"], scope["path"], scope["query_string"].decode(), headers.get("x-own", ""),
             headers.get("x-faaskit-evil", "none"), headers.get("connection", "none"), headers.get("cookie", ""),
             body.decode()]
    status = 404 if scope["path"] == "/missing" else 418
    await send({"type": "http.response.start", "status": status,
                "headers": [(b"content-type", b"text/plain"), (b"x-reply", b"yes"), (b"set-cookie", b"a=1"),
                            (b"set-cookie", b"b=2"), (b"connection", b"upgrade"), (b"x-faaskit-start", b"forged")]})
    await send({"type": "http.response.body", "body": "|".join(lines).encode()})
"""


def web(serve, root):
    """A web application behind /functions/NAME/web."""
    server = serve()
    server.deploy("app", tar({"function.json": json.dumps({"handler": "asgi:main:app"}), "main.py": ASGI}))
    answer = server.curl("PATCH", "/functions/app/web/some/path?x=1&y=%20z", body="body",
                         headers=["X-Own: mine", "X-Faaskit-Evil: yes", "Cookie: c=3"])
    equal(answer.text, "PATCH|/some/path|x=1&y=%20z|mine|none|none|c=3|body", "what the application saw")
    equal(answer.status, 418, "its status")
    equal(answer.header("x-reply"), "yes", "its header")
    check(answer.header("x-faaskit-start") in ("cold", "warm"), "a forged header of ours: %r" % answer.headers)
    check(answer.header("connection") != "upgrade", "a header of the connection")
    equal(server.curl("GET", "/functions/app/web").text.split("|")[1], "/", "the root")
    equal(server.curl("GET", "/functions/app/web/missing").status, 404, "its own 404")
    # What a Connection header names is between the two that speak.
    answer = server.curl("GET", "/functions/app/web/x", headers=["X-Own: mine", "Connection: keep-alive , X-OWN"])
    equal(answer.text.split("|")[3], "", "a header named in Connection")
    # The runtime does not let such through; whoever takes its place might.
    server.deploy("sly", python("import sys\nsys.modules['__main__'].HOP_BY_HOP = frozenset()\ndef handler(p, c):\n"
                                "    return p, {'headers': {'connection': 'X-Hop', 'x-hop': '1', 'x-stays': '1'}}\n"))
    answer = server.curl("GET", "/functions/sly/web/")
    equal((answer.header("x-hop"), answer.header("connection"), answer.header("x-stays")), (None, None, "1"),
          "the headers of a reply that names one in Connection: %r" % answer)
    head = server.curl("HEAD", "/functions/app/web/x")
    equal((head.status, head.body), (418, b""), "HEAD")
    line = server.raw(b"GET /functions/app/web/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    equal(line.count(b"set-cookie"), 2, "headers that come twice: %r" % line)


# ------------------------------------------------------------------------------------------------- views


def views(serve, root):
    """What an administrator can look at."""
    server = serve("--open-metrics")
    server.deploy("f", python("import sys\ndef handler(p, c):\n    print('out', p.decode(), flush=True)\n"
                              "    print('err', p.decode(), file=sys.stderr)\n    return p\n"))
    equal(server.get("/sandboxes").json(), {"sandboxes": []}, "no sandboxes yet")
    cold = server.call("f", "one")
    for word in ("two", "three"):
        server.call("f", word)
    (sandbox,) = server.get("/sandboxes").json()["sandboxes"]
    equal((sandbox["function"], sandbox["version"], sandbox["uses"], sandbox["id"]),
          ("f", 1, 3, cold.header("x-faaskit-sandbox")), "the sandbox")
    check(os.path.exists("/proc/%d" % sandbox["pid"]) and sandbox["cgroup"] and sandbox["age_ms"] >= 0, repr(sandbox))
    eventually(lambda: server.get("/sandboxes").json()["sandboxes"][0]["state"] == "frozen", "it freezes")
    stats = server.get("/stats").json()
    equal((stats["functions"]["f"]["breaker"], stats["functions"]["f"]["breaker_opened"]), ("closed", 0), "the breaker")
    equal((stats["functions"]["f"]["cold"], stats["functions"]["f"]["warm"]), (1, 2), "the counts")
    equal(stats["sandboxes"]["frozen"], 1, "sandboxes by state")

    records = server.get("/records?function=f").json()["records"]
    equal([record["start"] for record in records], ["warm", "warm", "cold"], "the records, newest first")
    check({"auth", "acquire", "run", "hello", "create"} <= set(records[-1]["phases"]), repr(records[-1]))
    equal(len(server.get("/records?kind=cold").json()["records"]), 1, "by kind")
    equal(len(server.get("/records?since=%s" % records[0]["time"]).json()["records"]), 1, "by time")
    equal(server.get("/records?function=g").json()["records"], [], "of another")
    equal(len(server.get("/records?limit=2").json()["records"]), 2, "limited")
    eventually(lambda: len(read(os.path.join(server.state, "records.jsonl")).splitlines()) == 3, "records on disk")

    log = eventually(lambda: (lambda t: t if "err three" in t else None)(server.get("/functions/f/logs").text), "the log")
    equal([line.split("| ")[1] for line in log.splitlines() if "| " in line],
          ["out one", "err one", "out two", "err two", "out three", "err three"], "the log's lines")
    of_one = server.get("/functions/f/logs?request=" + cold.header("x-faaskit-request")).text
    equal([line.split("| ")[1] for line in of_one.splitlines()], ["out one", "err one"], "one request's")

    metrics = server.curl("GET", "/metrics").text  # open
    for line in ('faaskit_sandboxes{state="frozen"} 1', 'faaskit_invocations_total{function="f",kind="warm",code="OK"} 2',
                 'faaskit_waiters{function="f"} 0', "faaskit_connections 1"):
        check(line in metrics, "%s is not in\n%s" % (line, metrics))


# ------------------------------------------------------------------------------------------------- the wire


def wire(serve, root):
    """Bytes that no curl would send."""
    server = serve("--head-timeout", "1000", "--idle-timeout", "2000")
    server.deploy("f", python(ECHO))
    post = b"POST /functions/f/invocations HTTP/1.1\r\nHost: localhost\r\n"

    def status(request):
        answer = server.raw(request)
        return int(answer.split()[1]) if answer else None

    equal(status(post + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400, "both lengths")
    equal(status(post + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"), 400, "in the other order")
    equal(status(post + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"), 400, "two lengths")
    equal(status(post + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 400, "a coding we do not undo")
    equal(status(post + b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n"), 400, "a coding that is none")
    equal(status(post + b"Content-Length: -1\r\n\r\n"), 400, "a negative length")
    equal(status(post.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400,
          "chunks in HTTP/1.0")
    equal(status(post + b"Host: other\r\nContent-Length: 0\r\n\r\n"), 400, "two hosts")
    equal(status(b"GET /healthz HTTP/1.1\r\n\r\n"), 400, "no host")
    equal(status(b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400, "an absolute target")
    equal(status(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), 400, "TLS")
    equal(status(post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), 400, "a chunk of no length")

    # Two at once: one after the other, in order.
    both = server.raw(post + b"Content-Length: 3\r\n\r\none" + post + b"Connection: close\r\nContent-Length: 3\r\n\r\ntwo")
    check(both.find(b"one") < both.find(b"two") and both.count(b"HTTP/1.1 200") == 2, "pipelined: %r" % both)
    # In pieces.
    with server.socket() as line:
        for byte in post + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n":
            line.sendall(bytes([byte]))
        check(read_all(line).endswith(b"abcde"), "byte by byte")
    # The client asks first.
    with server.socket() as line:
        line.sendall(post + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        equal(line.recv(1000), b"HTTP/1.1 100 Continue\r\n\r\n", "the go-ahead")
        line.sendall(b"abc")
        check(read_all(line).endswith(b"abc"), "after it")
    with server.socket() as line:
        line.sendall(b"POST /functions/g/invocations HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                     b"Content-Length: 3\r\n\r\n")
        check(line.recv(1000).startswith(b"HTTP/1.1 404"), "no go-ahead for what is refused")
    old = server.raw(b"POST /functions/f/invocations HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
    check(old.endswith(b"\r\n\r\nhi") and b"Connection: close" in old, "HTTP/1.0: %r" % old)
    # A refused upload is told so, though it never stops talking.
    with server.socket() as line:
        line.sendall(b"PUT /functions/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n")
        line.sendall(b"x" * 1000000)
        check(line.recv(1000).startswith(b"HTTP/1.1 401"), "an early refusal")

    # Slow ones are cut off; others are served meanwhile.
    began = time.monotonic()
    with server.socket() as line, server.socket() as idle:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHos")
        equal(server.curl("GET", "/healthz").text, "ok\n", "beside a slow one")
        equal(read_all(line), b"", "a head that never ends")
        check(time.monotonic() - began < 10, "it took %.1f s" % (time.monotonic() - began))
        equal(read_all(idle), b"", "a connection that never speaks")


def disconnects(serve, root):
    """Who goes away while waiting gives up the place in the line at once."""
    server = serve()
    server.deploy("f", python("import time\ndef handler(p, c):\n    time.sleep(float(p or 0))\n    return p\n",
                              max_sandboxes=1, timeout_ms=30000))
    server.call("f", "0")
    stats = lambda name="f": server.get("/stats").json()["functions"][name]
    busy_of = lambda name: [s for s in server.get("/sandboxes").json()["sandboxes"]
                            if s["function"] == name and s["state"] == "busy"]
    records = lambda name: server.get("/records?function=" + name).json()["records"]
    post = b"POST /functions/f/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n8"
    runs = server.socket()
    runs.sendall(post)
    eventually(lambda: stats()["leased"] == 1, "the first runs")
    waits = [server.socket() for _ in range(3)]
    for line in waits:
        line.sendall(post)
    eventually(lambda: stats()["waiters"] == 3, "the others wait")
    waits[0].close()
    eventually(lambda: stats()["waiters"] == 2, "one is gone", 5)
    for line in waits[1:]:
        line.close()
    eventually(lambda: stats()["waiters"] == 0, "all are gone", 5)
    busy = busy_of("f")
    runs.close()
    # What ran goes on to its end, and its sandbox serves again.
    equal(server.call("f", "0").header("x-faaskit-sandbox"), busy[0]["id"], "the sandbox")

    # A start that nobody waits for any more is finished, and its sandbox is there for the next.
    server.deploy("late", python("import time\ntime.sleep(1)\n" + ECHO))
    line = server.socket()
    line.sendall(post.replace(b"/f/", b"/late/"))
    eventually(lambda: stats("late")["starts_in_flight"] == 1, "it starts")
    line.close()
    eventually(lambda: stats("late")["waiters"] == 0, "its caller is gone", 5)
    eventually(lambda: stats("late")["idle"] == 1, "the start became idle")
    equal(stats("late")["surplus_starts"], 1, "starts nobody waited for")
    equal(server.call("late", "x").header("x-faaskit-start"), "warm", "the next call")
    equal(records("late")[-1]["code"], "CANCELLED", "the record of who left")


def cancels(serve, root):
    """Who goes away ends its running call where the function says so, and a stream in any case."""
    server = serve("--shards", "2")
    post = b"POST /functions/f/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n20"
    stats = lambda name: server.get("/stats").json()["functions"][name]
    of = lambda name: [s for s in server.get("/sandboxes").json()["sandboxes"] if s["function"] == name]
    records = lambda name: server.get("/records?function=" + name).json()["records"]
    server.deploy("f", python("import time\ndef handler(p, c):\n    time.sleep(float(p or 0))\n    return p\n",
                              cancel_on_disconnect=True, timeout_ms=60000))
    with concurrent.futures.ThreadPoolExecutor(1) as crowd:
        other = crowd.submit(server.call, "f", "3")
        eventually(lambda: stats("f")["leased"] == 1, "the other runs")
        (stays,) = of("f")
        line = server.socket()
        line.sendall(post)
        (goes,) = eventually(lambda: [s for s in of("f") if s["id"] != stays["id"] and s["state"] == "busy"], "it runs")
        line.close()
        eventually(lambda: not os.path.exists("/proc/%d" % goes["pid"]), "its sandbox is gone", 5)
        equal(other.result().header("x-faaskit-sandbox"), stays["id"], "who served the other")
    eventually(lambda: [s["id"] for s in of("f")] == [stays["id"]], "one sandbox is left")
    gone = eventually(lambda: [r for r in records("f") if r["code"] == "CANCELLED"], "its record")
    equal(len(gone), 1, "cancelled calls")
    check(gone[0]["sandbox"] == goes["id"] and {"acquire", "run"} <= set(gone[0]["phases"]), repr(gone))
    equal(server.call("f", "0").header("x-faaskit-start"), "warm", "the next call")

    # Two forms of not reading: gone, and gone while the sandbox stands in its write.
    server.deploy("s", python(STREAM, timeout_ms=60000))
    for number, bytes_read in enumerate((1, 4 << 20)):
        with chunked(server, "big 100000") as line:
            read = 0
            while read < bytes_read:
                read += len(line.recv(65536))
            (busy,) = of("s")
        eventually(lambda: not os.path.exists("/proc/%d" % busy["pid"]), "the sandbox of a stream nobody reads", 5)
        eventually(lambda: len(records("s")) == number + 1, "its record")
        equal(records("s")[0]["code"], "CANCELLED", "its end")
    # Gone before it began.
    with chunked(server, "slow") as line:
        eventually(lambda: stats("s")["leased"] == 1, "it runs")
    eventually(lambda: stats("s")["leased"] == 0, "it has ended")
    equal(server.call("s", "still there").text, "still there", "afterwards")
    server.stop()
    equal(leftovers(server), [], "what is left")


# ------------------------------------------------------------------------------------------------- restarts


def restarts(serve, root):
    """Everything is there after a restart; what cannot run says so and stops nothing else."""
    server = serve()
    server.deploy("f", python("def handler(p, c):\n    return 'one'\n"))
    server.deploy("f", python("def handler(p, c):\n    return 'two'\n"))
    server.deploy("lost", python(ECHO))
    key = server.curl("POST", "/functions/f/keys", admin=True).json()
    token = server.token
    second = subprocess.run([server.binary, "--listen", "127.0.0.1:0", "--state-dir", server.state],
                            stderr=subprocess.PIPE, timeout=30)
    equal(second.returncode, 1, "a second one on the same folder")
    check(b"in use" in second.stderr, repr(second.stderr))
    lost = server.get("/functions/lost").json()["code"].rpartition(":")[2]
    server.stop()
    for folder, names, files in os.walk(os.path.join(server.state, "code")):
        for name in files:
            if lost in name:
                os.unlink(os.path.join(folder, name))
        for name in list(names):
            if lost in name:
                subprocess.run(["rm", "-rf", os.path.join(folder, name)], check=True)
    with open(os.path.join(server.state, "incoming", "body-7"), "w") as file:
        file.write("x")
    # A folder that was somebody's before it was given to us.
    os.makedirs(os.path.join(server.state, "incoming", "mail"))
    with open(os.path.join(server.state, "incoming", "mail", "letter"), "w") as file:
        file.write("Dear")
    server.start()
    equal(server.token, token, "the token")
    answer = server.call("f", "x", headers=["X-Api-Key: " + key["key"]])
    equal((answer.text, answer.header("x-faaskit-version")), ("two", "2"), "the function")
    server.call("f", "x", expected=401)
    listed = {f["name"]: f for f in server.get("/functions").json()["functions"]}
    check("error" in listed["lost"] and "error" not in listed["f"], "the list: %r" % listed)
    equal(server.call("lost", "x", expected=503).error(), "unavailable", "a function without code")
    equal(os.listdir(os.path.join(server.state, "incoming")), ["mail"], "half a body of before")
    equal(read(os.path.join(server.state, "incoming", "mail", "letter")), "Dear", "what is not ours")
    server.deploy("lost", python(ECHO), expected=[200])
    equal(server.call("lost", "x").text, "x", "deployed again")
    equal(server.deploy("f", python(ECHO), expected=[200]).json()["version"], 3, "versions go on")


def killed(serve, root):
    """kill -9 right after each of 200 acknowledged deploys: all are there."""
    server = serve()
    rounds, wanted = 200, {}
    worker = worker_beside(server.binary)
    names = ["f%d" % i for i in range(5)]
    for i in range(rounds):
        # Each start checks what the one before was killed over.
        name = names[i % len(names)]
        archive = tar({"function.json": json.dumps({"runtime": "exec", "handler": "hello"}), "hello": worker, "n": str(i)})
        connection = server.connection()
        connection.request("PUT", "/functions/" + name, archive, {"Authorization": "Bearer " + server.token})
        answer = connection.getresponse()
        body = json.loads(answer.read())
        check(answer.status in (200, 201), "deploy %d: %r" % (i, body))
        wanted[name] = (body["version"], body["code"])
        server.kill()
        server.start()
        listed = {f["name"]: f for f in server.get("/functions").json()["functions"]}
        for known, (version, code) in wanted.items():
            check(known in listed, "deploy %d: %s is lost" % (i, known))
            equal((listed[known]["version"], listed[known]["code"]), (version, code), "deploy %d: %s" % (i, known))
            check("error" not in listed[known], "deploy %d: %r" % (i, listed[known]))
    for name in names:
        equal(server.call(name, "you").text, "Hello, you, from C++!\n", name)
    server.stop()
    equal(leftovers(server), [], "what is left")


def terminated(serve, root):
    """SIGTERM under load: every call is answered, by its function or with 503; nothing is left."""
    for delay, shards in ((0.3, "1"), (1.5, "3")):
        server = serve("--grace", "10000", "--shards", shards)
        server.deploy("f", python("import time\ndef handler(p, c):\n    time.sleep(0.05)\n    return p\n",
                                  max_sandboxes=4, max_waiters=1000, timeout_ms=30000))
        server.call("f", "x")
        results, wrong = {}, []
        stop = threading.Event()

        def client(number):
            connection = server.connection()
            while True:
                payload = b"%d" % number
                try:
                    connection.request("POST", "/functions/f/invocations", payload)
                except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, OSError) as error:
                    # Not sent, or not to anybody: the client may try elsewhere.
                    if stop.is_set():
                        return
                    wrong.append("sending before the stop: %r" % error)
                    return
                try:
                    answer = connection.getresponse()
                    body = answer.read()
                except Exception as error:  # sent, and never answered
                    wrong.append("no answer: %r" % error)
                    return
                results[answer.status] = results.get(answer.status, 0) + 1
                if answer.status == 200 and body != payload:
                    wrong.append("a wrong answer: %r" % body)
                if answer.status not in (200, 503):
                    wrong.append("%d %r" % (answer.status, body))
                if answer.status == 503 and json.loads(body)["error"]["code"] != "stopping":
                    wrong.append("503 %r" % body)
                if answer.status != 200:
                    return
                if answer.getheader("Connection") == "close":
                    if stop.is_set():
                        return
                    connection.close()

        threads = [threading.Thread(target=client, args=(i,)) for i in range(40)]
        for thread in threads:
            thread.start()
        time.sleep(delay)
        stop.set()
        server.stop()
        for thread in threads:
            thread.join(30)
        print(results)
        equal(wrong, [], "calls lost")
        check(results.get(200, 0) > 4 and results.get(503, 0) > 0, "the load: %r" % results)
        equal(leftovers(server), [], "what is left")

    # A second signal does not wait for what runs.
    server = serve("--grace", "60000")
    server.deploy("f", python("import time\ndef handler(p, c):\n    time.sleep(60)\n", timeout_ms=100000))
    line = server.socket()
    line.sendall(b"POST /functions/f/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    eventually(lambda: server.get("/stats").json()["functions"]["f"]["leased"] == 1, "it runs")
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping" in server.said().splitlines()[-1], "it is told")
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)
    check(time.monotonic() - began < 15, "the second signal took %.1f s" % (time.monotonic() - began))
    check(re.match(rb"HTTP/1.1 50[23] ", read_all(line)), "whoever was cut short is told")
    equal(leftovers(server), [], "what is left")


def descriptors(serve, root):
    """256 descriptors and 1,000 clients: no wrong answer, no crash, and back to normal."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 4096:
        raise Skip("1,000 clients need more descriptors than %d" % hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    server = serve("--shards", "2", before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)))
    server.deploy("f", python("import time\ndef handler(p, c):\n    time.sleep(0.002)\n    return p\n",
                              max_sandboxes=6, timeout_ms=60000))
    server.deploy("g", python(ECHO))
    server.call("f", "x")
    wrong, counts = [], {"ok": 0, "again": 0}
    lock = threading.Lock()

    def client(number):
        for turn in range(3):
            payload = b"client %d turn %d" % (number, turn)
            for attempt in range(20):
                connection = server.connection(timeout=100)
                try:
                    connection.request("POST", "/functions/f/invocations", payload)
                    answer = connection.getresponse()
                    body = answer.read()
                except Exception as error:
                    with lock:
                        counts["again"] += 1
                    last = repr(error)
                    continue
                finally:
                    connection.close()
                if answer.status == 200 and body == payload:
                    with lock:
                        counts["ok"] += 1
                    break
                last = "%d %r" % (answer.status, body)
                if answer.status not in (429, 503):
                    wrong.append(last)
                    return
                with lock:
                    counts["again"] += 1
            else:
                wrong.append("never served: " + last)
                return

    # Hundreds that connect and say nothing are in the way too.
    silent = [server.socket() for _ in range(300)]
    threads = [threading.Thread(target=client, args=(i,)) for i in range(1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(150)
    print(counts)
    equal(wrong[:5], [], "wrong answers")
    equal(counts["ok"], 3000, "calls served")
    equal(server.process.poll(), None, "the server lives")
    for line in silent:
        line.close()
    eventually(lambda: server.get("/stats").json()["connections"]["open"] < 5, "connections close")
    check(server.get("/stats").json()["connections"]["pauses"] > 0, "it never paused")
    equal(server.call("g", "a new sandbox").text, "a new sandbox", "afterwards")
    equal(server.call("f", "y").text, "y", "afterwards")
    server.stop()
    equal(leftovers(server), [], "what is left")


# ------------------------------------------------------------------------------------------------- newcomers


def try_it(serve, root):
    """The README's lines, as a newcomer would paste them."""
    text = read(os.path.join(root, "README.md"))
    block = re.search(r"## Run the mini-platform.*?```sh\n(.*?)```", text, re.S)
    check(block, "README.md has no lines to try")
    server = serve(state="a folder")
    script = block.group(1)
    for default, ours in (("http://127.0.0.1:8080", server.url), ("/var/lib/faaskit-mini", "'%s'" % server.state)):
        check(default in script, "the lines do not name " + default)
        script = script.replace(default, ours)
    done = subprocess.run(["sh", "-exc", script], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)
    output = done.stdout.decode()
    equal(done.returncode, 0, "the lines: %s\n%s" % (output, done.stderr.decode()))
    for words in ("Hello, Ada, from Python!", "Hello, Ada, from Node!", "Hello, Ada, from C++!", "greeting Ada",
                  "X-Faaskit-Start: cold", '"functions":[]'):
        check(words in output, "%r is not in\n%s" % (words, output))


def strangers(serve, root):
    """What cannot be is said in words, before anything is made."""
    server = serve()
    server.stop()

    def run(*options, **more):
        done = subprocess.run([server.binary, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30, **more)
        return done.returncode, done.stderr.decode() + done.stdout.decode()

    for options, words in ((["--frobnicate"], "--frobnicate"), (["--listen", "nowhere"], "--listen"),
                           (["--shards", "0"], "--shards"), (["--freezer", "ice"], "ice"),
                           (["--jwt-hs256-file", "/etc/hostname"], "--jwt-audience"), (["--grace"], "--grace")):
        status, said = run(*options)
        equal(status, 2, " ".join(options) + ": " + said)
        check(words in said, "%r does not say %r" % (said, words))
    equal(run("--help")[0], 0, "help")
    state = os.path.join(server.stage, "other")
    status, said = run("--listen", "127.0.0.1:0", "--state-dir", state, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_NOFILE, (64, 64)))
    check(status == 1 and "ulimit -n" in said, "64 descriptors: %d %s" % (status, said))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, said = run("--listen", "127.0.0.1:%d" % taken.getsockname()[1], "--state-dir", state,
                           "--runtime-dir", os.path.join(server.stage, "run2"))
        check(status == 1 and "in use" in said, "a port that is taken: %d %s" % (status, said))


def stderr(serve, root):
    """What a function prints is no line of ours, and a reader of ours that goes away ends nothing."""
    server = serve()
    server.deploy("f", python(ECHO))
    server.deploy("dead", python("import sys\nprint('\\x1b[2J\\nfaaskit-mini: listening on http://evil', file=sys.stderr)\n"
                                 "sys.exit(7)\n" + ECHO))
    server.call("dead", "x", expected=503)
    said = eventually(lambda: server.said() if "start.failed dead" in server.said() else None, "the event")
    equal([line for line in said.splitlines() if line.startswith("faaskit-mini: listening on http://evil")], [], said)
    check("\x1b" not in said and "\\x1b[2J\\nfaaskit-mini: listening" in said, repr(said))
    server.stop()

    port = os.path.join(server.stage, "port")
    process = server.process = subprocess.Popen(
        [server.binary, *server.options, "--port-file", port, "--verbose"], stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE)
    server.port = int(eventually(lambda: read(port), "it listens"))
    server.url = "http://127.0.0.1:%d" % server.port
    process.stderr.close()
    server.call("dead", "x", expected=503)
    equal(server.call("f", "x").text, "x", "with nobody reading")
    server.stop()
    equal(leftovers(server), [], "what is left")


def ordinary_user(serve, root):
    """Without root: refused in words; with the opt-ins it serves."""
    if os.geteuid() != 0:
        raise Skip("needs root to become somebody else")
    server = serve()  # for its folder
    server.stop()
    home = os.path.join(server.stage, "home")
    os.mkdir(home)
    os.chown(home, 12345, 12345)
    for name in ("faaskit-mini", "faaskit-mini.functions"):
        subprocess.run(["cp", "-r", os.path.join(os.path.dirname(server.binary), name), home], check=True)
    subprocess.run(["chmod", "-R", "a+rX", home], check=True)

    def become():
        os.setgroups([])
        os.setgid(12345)
        os.setuid(12345)

    binary = os.path.join(home, "faaskit-mini")
    done = subprocess.run([binary, "--listen", "127.0.0.1:0", "--state-dir", os.path.join(home, "state")],
                          stderr=subprocess.PIPE, preexec_fn=become, timeout=30)
    check(done.returncode == 1 and b"not root" in done.stderr, "without opt-ins: %d %r" % (done.returncode, done.stderr))
    server.binary, server.state, server.before = binary, os.path.join(home, "state"), become
    server.options = ["--listen", "127.0.0.1:0", "--state-dir", server.state, "--freezer", "none",
                      "--minimum-isolation", "none"]
    server.start()
    for name, language in (("hello-python", "Python"), ("hello-cpp", "C++")):
        answer = server.curl("PUT", "/functions/" + name, body=json.dumps({"path": name}), admin=True,
                             headers=["Content-Type: application/json"])
        equal(answer.status, 201, "%s: %r" % (name, answer))
        equal(server.call(name, "you").text, "Hello, you, from %s!\n" % language, name)


main_cases = {f.__name__: f for f in (ordinary_user, deploys, paths, refusals, errors, access, tokens, streams, web, views, wire, no_limits, stderr, busy_yard,
                                      disconnects, cancels, restarts, killed, terminated, descriptors, try_it, strangers)}

if __name__ == "__main__":
    sys.exit(main(main_cases))
