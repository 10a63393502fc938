"""python_test.py INTERPRETER RUNTIME [quick | slow | CASE ...]: the Python runtime as its host sees it.

If these failed: a function would not get its call, or a caller not its reply, as docs/protocol.md and the
runtime's own text promise.
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from both import main
from peer import *  # noqa: F403

HEADERS = [(b":method", b"GET"), (b":path", b"/a%20b/c?q=1&r=%41"), (b":subject", b"ann"), (b":host", b"example.org:81"),
           (b":scheme", b"https"), (b"accept", b"text/html"), (b"x-tag", b"one"), (b"x-tag", b"two"),
           (b"content-length", b"999"), (b"x_tag", b"smuggled")]


def hello_says_times(command):
    with Sandbox(command, {"main.py": "import time\ntime.sleep(0.02)\ndef f(p, c): return p"}, "main:f") as s:
        holds(s.hello.get(4), b"python 3.")
        check(1000 < s.hello.get(5) < 10_000_000, "runtime_us", s.hello.get(5))
        check(20_000 <= s.hello.get(6) < 10_000_000, "init_us", s.hello.get(6))


def plain_replies(command):
    code = "def f(p, c): return eval(p)"
    with Sandbox(command, {"main.py": code}, "main:f") as s:
        for text, payload, content_type in (
                (b"b'abc'", b"abc", "application/octet-stream"),
                (b"bytearray(b'abc')", b"abc", "application/octet-stream"),
                (b"'caf\\u00e9'", b"caf\xc3\xa9", "text/plain; charset=utf-8"),
                (b"{'a': 1}", b'{"a": 1}', "application/json"),
                (b"[1, 2]", b"[1, 2]", "application/json"),
                (b"None", b"", "")):
            answer = s.ok(text)
            equal((answer.payload, answer.content_type, answer.metadata), (payload, content_type, []))
            check(answer.head is None, "not one frame")
        answer = s.call(b"3.5")
        equal(answer.status, 2)
        holds(answer.message, "TypeError: handler returned float")
        equal(s.ok(b"'still here'").payload, b"still here")


def replies_with_options(command):
    code = "def f(p, c): return eval(p)"
    with Sandbox(command, {"main.py": code}, "main:f") as s:
        answer = s.ok(b"('hi', {'status': 404, 'content_type': 'a/b', "
                      b"'headers': {'X-One': 1, 'set-cookie': ['a', 'b'], 'Content-Length': '7'}})")
        equal(answer.payload, b"hi")
        equal(answer.content_type, "a/b")
        equal(answer.metadata, [(b":status", b"404"), (b"x-one", b"1"), (b"set-cookie", b"a"), (b"set-cookie", b"b")])
        answer = s.ok(b"({'a': 1}, {'headers': [('Content-Type', 'c/d'), ('x', '')]})")
        equal((answer.payload, answer.content_type, answer.metadata), (b'{"a": 1}', "c/d", [(b"x", b"")]))
        # A long one has them in its head.
        answer = s.ok(b"('x' * 300, {'headers': {'a': 'b'}})", f10=100)
        equal((answer.head.get(2), answer.metadata, len(answer.bodies)), (300, [(b"a", b"b")], 3))
        for options, what in (
                (b"{'status': 99}", "status is 99"), (b"{'status': '200'}", "status is '200'"),
                (b"{'header': {}}", "'header'"), (b"{'headers': {'a b': 'c'}}", "no name of a header"),
                (b"{'headers': {':path': 'c'}}", "no name of a header"), (b"{'headers': {'': 'c'}}", "no name"),
                (b"{'headers': {'a': 'b\\r\\nc: d'}}", "line break"), (b"{'headers': {'a': 'b\\0'}}", "NUL"),
                (b"{'headers': {'a': 'b' * 32768}}", "32769 bytes"), (b"{'headers': {'a': ['b'] * 257}}", "257 headers"),
                (b"{'content_type': 'b' * 1025}", "1025 bytes, the limit is 1024")):
            answer = s.call(b"('hi', %s)" % options)
            equal((answer.status, answer.payload, answer.metadata), (2, b"", []))
            holds(answer.message, what)
        # At the limits it travels.
        equal(len(s.ok(b"('hi', {'headers': {'a': ['b' * 126] * 256}})").metadata), 256)


def context_tells_of_the_call(command):
    code = """
def f(p, c):
    return {"headers": c.headers, "subject": c.subject, "method": c.method, "path": c.path, "id": c.request_id,
            "type": c.content_type, "idle": c.idle_for, "cold": c.cold, "left": c.remaining(),
            "max": c.max_reply_bytes, "accept": c.headers.get("accept")}
"""
    with Sandbox(command, {"main.py": code}, "main:f") as s:
        found = json.loads(s.ok(b"", f13=HEADERS, f8=b"t/u", f6=1_500_000).payload)
        equal(found["headers"], {"accept": "text/html", "x-tag": "one, two", "content-length": "999", "x_tag": "smuggled"})
        equal([found[key] for key in ("subject", "method", "path", "id", "type", "idle", "cold", "max", "accept")],
              ["ann", "GET", "/a%20b/c?q=1&r=%41", "rq-abc-1", "t/u", 1.5, True, 6 << 20, "text/html"])
        check(9 < found["left"] <= 10, found["left"])
        found = json.loads(s.ok().payload)
        equal([found[key] for key in ("headers", "subject", "method", "path", "cold")], [{}, "", "POST", "/", False])


GENERATORS = """
import os
def two(p, c):
    yield "one"
    yield ""
    yield b"two"
def none(p, c):
    return
    yield
def broken(p, c):
    try:
        yield b"x"
        raise KeyError("midway")
    finally:
        os.write(2, b"closed\\n")
def large(p, c):
    try:
        while True: yield b"x" * 1000
    finally:
        os.write(2, b"closed\\n")
def wrong(p, c):
    yield b"x"
    yield 3
def map_(p, c):
    return map(str.upper, ["a", "b"]), {"status": 201, "headers": {"a": "b"}, "content_type": "x/y"}
"""


def parts_without_a_stream(command):
    with Sandbox(command, {"main.py": GENERATORS}, "main:two") as s:
        answer = s.ok()
        equal((answer.head, answer.payload, answer.content_type), (None, b"onetwo", "text/plain; charset=utf-8"))
    with Sandbox(command, {"main.py": GENERATORS}, "main:broken") as s:
        answer = s.call()
        equal((answer.head, answer.status, answer.payload), (None, 2, b""))
        holds(answer.message, "KeyError: 'midway'")
    with Sandbox(command, {"main.py": GENERATORS}, "main:large") as s:
        answer = s.call(b"", f12=10_000)
        equal((answer.head, answer.status), (None, 2))
        holds(answer.message, "reply has 11000 bytes or more, the limit is 10000")
        equal(s.log().count(b"closed"), 1)


def parts_as_a_stream(command):
    with Sandbox(command, {"main.py": GENERATORS}, "main:two") as s:
        answer = s.ok(f14=1)
        equal((answer.head.get(4), 2 in answer.head.envelope, answer.bodies), (1, False, [b"one", b"two"]))
        equal((answer.content_type, answer.end.payload), ("text/plain; charset=utf-8", b""))
    with Sandbox(command, {"main.py": GENERATORS}, "main:none") as s:
        answer = s.ok(f14=1)
        equal((answer.head, answer.payload), (None, b""))
    with Sandbox(command, {"main.py": GENERATORS}, "main:map_") as s:
        answer = s.ok(f14=1)
        equal((answer.bodies, answer.content_type, answer.metadata),
              ([b"A", b"B"], "x/y", [(b":status", b"201"), (b"a", b"b")]))
    with Sandbox(command, {"main.py": GENERATORS}, "main:broken") as s:
        answer = s.call(f14=1)
        equal((answer.bodies, answer.status, answer.end.payload), ([b"x"], 2, b""))
        holds(answer.message, "midway")
        equal(s.call(f14=1).status, 2)
    with Sandbox(command, {"main.py": GENERATORS}, "main:wrong") as s:
        holds(s.call(f14=1).message, "a reply's part is int")
    with Sandbox(command, {"main.py": GENERATORS}, "main:large") as s:
        answer = s.call(f14=1, f12=10_500)
        equal((len(b"".join(answer.bodies)), answer.status), (10_000, 2))
        holds(answer.message, "the limit is 10500")


def a_part_goes_out_before_the_next_is_made(command):
    code = """
import os
gate = os.path.dirname(__file__) + "/gate"
os.mkfifo(gate)
def f(p, c):
    yield "first"
    open(gate, "rb").read()
    yield "second"
"""
    with Sandbox(command, {"main.py": code}, "main:f") as s:
        s.begin(f14=1)
        equal(s.read().kind, REPLY_HEAD)
        equal(s.read().payload, b"first")
        open(s.folder + "/code/gate", "wb").close()
        equal([s.read().payload, s.read().kind], [b"second", END])


def a_window_is_kept(command):
    """A part beyond the credit waits for it, and other frames are answered meanwhile."""
    code = "def f(p, c):\n    yield b'x' * 1000\n    yield b'y' * 1000\n    yield b'z'"
    with Sandbox(command, {"main.py": code}, "main:f") as s:
        s.begin(f14=1, f11=1500, frame=1024, f10=1024)
        equal(s.read().kind, REPLY_HEAD)
        equal([len(s.read().payload), len(s.read().payload)], [1000, 500])
        s.frame(PING, 0, message(f1x=7))
        ping = s.read()
        equal((ping.kind, ping.flags), (PING, PONG))
        s.frame(CREDIT, 99, message(f1=1000))  # of no call of ours
        s.frame(RESUMED)
        s.frame(CANCEL, 1)
        s.frame(PING, 0, message(f1x=8))
        equal(s.read().kind, PING)
        s.frame(CREDIT, 1, message(f1=300))
        equal(s.read().payload, b"y" * 300)
        s.frame(DRAIN)
        s.frame(CREDIT, 1, message(f1=300))
        equal([s.read().payload, s.read().payload, s.read().kind], [b"y" * 200, b"z", END])
        equal(s.wait(), 0)


def a_generator_is_closed_with_its_channel(command):
    code = """
import os
def f(p, c):
    try:
        while True: yield b"x" * 65536
    finally:
        os.write(2, b"closed\\n")
"""
    with Sandbox(command, {"main.py": code}, "main:f") as s:
        s.begin(f14=1)
        for _ in range(16):
            s.read()
        s.channel.close()
        equal(s.wait(), 0)
        equal(s.log(), b"closed\n")


def crumbs_are_joined_in_the_end(command):
    code = "def f(p, c):\n    for i in range(80000): yield b'0123456789'"
    with Sandbox(command, {"main.py": code}, "main:f") as s:
        answer = s.ok(f14=1)
        equal(answer.payload, b"0123456789" * 80000)
        equal({len(body) for body in answer.bodies[:65000]}, {10})
        check(len(answer.bodies) <= 65536, len(answer.bodies))
        check(min(map(len, answer.bodies[65000:-1])) >= 512, "crumbs")


def credit_does_not_pile_up(command):
    """The host's credit for small frames is taken before a socket is full of it."""
    code = "def f(p, c):\n    for i in range(20000): yield b'x' * 50"
    with Sandbox(command, {"main.py": code}, "main:f") as s:
        s.channel.settimeout(PATIENCE)
        equal(len(s.ok(f14=1, f11=2 << 20).payload), 1_000_000)
        s.channel.setblocking(False)
        try:
            check(s.channel.recv(1) == b"never", "a frame after END")
        except BlockingIOError:
            pass


WSGI = """
import faaskit, os, sys
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/environ":
        start_response("200 OK", [("Content-Type", "text/plain"), ("X-A", "1"), ("X-A", "2")])
        return [repr({k: v for k, v in environ.items() if type(v) in (str, int, bool, tuple)}).encode(), b"\\n",
                environ["wsgi.input"].read()]
    if path == "/write":
        write = start_response("404 Not Found", [])
        write(b"a")
        write(b"b")
        return [b"c"]
    if path == "/stream":
        start_response("200 OK", [("content-type", "x/y")])
        return Body()
    if path == "/late":
        return late(start_response)
    if path == "/known":
        start_response("200 OK", [("Content-Length", "3")])
        return iter([b"abc"])
    if path == "/error":
        try:
            start_response("200 OK", [])
            raise KeyError("x")
        except KeyError:
            start_response("500 Oh", [("x", "y")], sys.exc_info())
            return [b"sorry"]
    if path == "/twice":
        start_response("200 OK", [])
        start_response("200 OK", [])
    if path == "/endless":
        write = start_response("200 OK", [])
        while True: write(b"x" * 65536)
    return []
def late(start_response):
    yield b""
    start_response("201 Created", [])
    yield b"late"
class Body:
    def __iter__(self):
        yield b"one"
        yield b"two"
        if os.path.exists("/nowhere"): yield b""
    def close(self):
        os.write(2, b"closed\\n")
"""


def get(path, *more):
    return [(b":method", b"GET"), (b":path", path), *more]


def wsgi(command):
    with Sandbox(command, {"main.py": WSGI}, "wsgi:main:app") as s:
        headers = [pair for pair in HEADERS if pair[0] != b":path"] + [(b":path", b"/%65nviron?q=1&r=%41")]
        answer = s.ok(b"body", f13=headers, f8=b"t/u")
        text, _, body = answer.payload.rpartition(b"\n")
        environ = eval(text)
        equal(body, b"body")
        expected = {"REQUEST_METHOD": "GET", "PATH_INFO": "/environ", "QUERY_STRING": "q=1&r=%41", "SCRIPT_NAME": "",
                    "SERVER_NAME": "example.org", "SERVER_PORT": "81", "SERVER_PROTOCOL": "HTTP/1.1",
                    "CONTENT_TYPE": "t/u", "CONTENT_LENGTH": "4", "HTTP_HOST": "example.org:81", "REMOTE_USER": "ann",
                    "HTTP_ACCEPT": "text/html", "HTTP_X_TAG": "one, two", "wsgi.url_scheme": "https",
                    "wsgi.version": (1, 0)}
        equal({key: environ.get(key) for key in expected}, expected)
        equal((answer.content_type, answer.metadata), ("text/plain", [(b":status", b"200"), (b"x-a", b"1"), (b"x-a", b"2")]))
        equal(eval(s.ok(f13=[(b":path", b"/environ")]).payload)["REQUEST_METHOD"], "POST")
        answer = s.ok(f13=get(b"/write"))
        equal((answer.payload, answer.metadata), (b"abc", [(b":status", b"404")]))
        answer = s.ok(f13=get(b"/stream"))
        equal((answer.head, answer.payload, answer.content_type), (None, b"onetwo", "x/y"))
        answer = s.ok(f13=get(b"/stream"), f14=1)
        equal((answer.head.get(4), answer.bodies, answer.metadata), (1, [b"one", b"two"], [(b":status", b"200")]))
        equal(s.log().count(b"closed\n"), 2)
        equal(s.ok(f13=get(b"/late"), f14=1).metadata, [(b":status", b"201")])
        answer = s.ok(f13=get(b"/known"), f14=1)
        equal((answer.head, answer.payload, answer.metadata), (None, b"abc", [(b":status", b"200")]))
        answer = s.ok(f13=get(b"/error"))
        equal((answer.payload, answer.metadata), (b"sorry", [(b":status", b"500"), (b"x", b"y")]))
        holds(s.call(f13=get(b"/twice")).message, "start_response() was called twice")
        holds(s.call(f13=get(b"/silent")).message, "did not call start_response()")
        holds(s.call(f13=get(b"/endless"), f12=100_000).message, "the limit is 100000")


ASGI = """
import asyncio, os
log = lambda text: os.write(2, text + b"\\n")
ready = False
async def app(scope, receive, send):
    global ready
    if scope["type"] == "lifespan":
        equal = (await receive())["type"]
        assert equal == "lifespan.startup"
        await asyncio.sleep(0)
        scope["state"]["key"] = "kept"
        ready = True
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        log(b"shut down")
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert ready
    path = scope["path"]
    async def start(status=200, *headers):
        await send({"type": "http.response.start", "status": status, "headers": headers})
    async def body(data, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})
    if path == "/scope":
        request = await receive()
        assert not request["more_body"]
        await start(203, (b"Content-Type", b"text/x"), (b"x-a", b"1"), (b"x-a", b"2"), (b"content-length", b"1"))
        text = repr({k: v for k, v in scope.items() if k != "faaskit.context"}).encode()
        await body(text + b"\\n" + request["body"])
        assert (await receive())["type"] == "http.disconnect"
        await asyncio.sleep(0.01)
        log(b"after")
    elif path == "/stream":
        await start(200, (b"content-type", b"x/y"))
        await body(b"one", True)
        await asyncio.sleep(0)
        await body(b"two", True)
        await body(b"")
    elif path == "/broken":
        await start()
        await body(b"one", True)
        raise KeyError("midway")
    elif path == "/short":
        await start()
        await body(b"one", True)
    elif path == "/silent":
        pass
    elif path == "/endless":
        await start()
        try:
            while True: await body(b"x" * 65536, True)
        except (OSError, asyncio.CancelledError) as error:
            log(b"ended")
            raise
    else:
        raise ValueError(path)
"""


def asgi(command):
    with Sandbox(command, {"main.py": ASGI}, "asgi:main:app") as s:
        headers = [pair for pair in HEADERS if pair[0] != b":path"] + [(b":path", b"/%73cope?q=1&r=%41")]
        answer = s.ok(b"body", f13=headers, f8=b"t/u")
        text, _, body = answer.payload.rpartition(b"\n")
        scope = eval(text)
        equal(body, b"body")
        expected = {"type": "http", "method": "GET", "path": "/scope", "raw_path": b"/%73cope",
                    "query_string": b"q=1&r=%41", "root_path": "", "scheme": "https", "http_version": "1.1",
                    "server": ("example.org", 81), "state": {"key": "kept"}}
        equal({key: scope.get(key) for key in expected}, expected)
        equal(scope["headers"], [(b"accept", b"text/html"), (b"x-tag", b"one"), (b"x-tag", b"two"),
                                 (b"x_tag", b"smuggled"), (b"content-length", b"4"), (b"content-type", b"t/u"),
                                 (b"host", b"example.org:81")])
        equal((answer.content_type, answer.metadata),
              ("text/x", [(b":status", b"203"), (b"x-a", b"1"), (b"x-a", b"2")]))
        holds(s.log(), b"after")  # what goes on behind the response is done before END
        answer = s.ok(f13=get(b"/stream"))
        equal((answer.head, answer.payload, answer.content_type), (None, b"onetwo", "x/y"))
        answer = s.ok(f13=get(b"/stream"), f14=1)
        equal((answer.head.get(4), answer.bodies, answer.metadata), (1, [b"one", b"two"], [(b":status", b"200")]))
        answer = s.call(f13=get(b"/broken"), f14=1)
        equal((answer.bodies, answer.status), ([b"one"], 2))
        holds(answer.message, "KeyError: 'midway'")
        holds(s.call(f13=get(b"/short"), f14=1).message, "ended before its response did")
        holds(s.call(f13=get(b"/silent")).message, "ended before its response did")
        holds(s.call(f13=get(b"/other")).message, "ValueError: /other")
        answer = s.call(f13=get(b"/endless"), f12=1 << 20)
        holds(answer.message, "the limit is 1048576")
        equal(s.log().count(b"\nended\n"), 1)
        s.frame(DRAIN)
        equal(s.wait(), 0)
        holds(s.log(), b"shut down")
    with Sandbox(command, {"main.py": ASGI}, "asgi:main:app") as s:
        s.begin(f13=get(b"/endless"), f14=1)
        for _ in range(16):
            s.read()
        s.channel.close()
        equal(s.wait(), 0)
        holds(s.log(), b"ended\nshut down\n")


def asgi_without_lifespan(command):
    code = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"hi"})
async def sick(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
    with Sandbox(command, {"main.py": code}, "asgi:main:app") as s:
        equal(s.ok().payload, b"hi")
    with Sandbox(command, {"main.py": code}, "asgi:main:sick", hello=False) as s:
        equal(s.wait(), 1)
        holds(s.log(), b"no database")


def servers_of_both_kinds_answer_pings(command):
    for code, handler in (WSGI, "wsgi:main:app"), (ASGI, "asgi:main:app"):
        with Sandbox(command, {"main.py": code}, handler) as s:
            s.ping(1)
            s.call()
            s.ping(2)
            s.call()
            s.ping(3)


def asyncio_comes_only_when_needed(command):
    code = "import sys\ndef f(p, c): return [m for m in sys.modules if m in ('asyncio', 'json', 'ast', 'select', 're')]"
    with Sandbox(command, {"main.py": code}, "main:f") as s:
        equal(json.loads(s.ok().payload), [])


def site_packages(command):
    files = {"main.py": "import lib, own\ndef f(p, c): return [lib.name, own.name]",
             "own.py": "name = 'the code\\'s'", "site-packages/own.py": "name = 'vendored'",
             "site-packages/lib/__init__.py": "name = 'lib'",
             "site-packages/evil.pth": "import os; os._exit(9)\n"}
    with Sandbox(command, files, "main:f") as s:
        equal(json.loads(s.ok().payload), ["lib", "the code's"])
    with Sandbox(command, files, "main:f", file="main.py") as s:
        equal(json.loads(s.ok().payload), ["lib", "the code's"])


def code_is_checked_without_running_it(command):
    trap = "import os\nos._exit(7)\n"

    def checked(files, handler="main:f", file=None):
        if isinstance(files, str):
            files = {"main.py": trap + files}
        return run_check(command, files, handler, file)

    for well in ("def f(p, c): pass", "async def f(): pass", "class f: pass", "f = 1", "from x import *",
                 "from x import y as f", "import f.g", "if a:\n  pass\nelse:\n  def f(): pass", "for f in x: pass",
                 "try:\n  pass\nexcept E as f: pass", "with x as (a, f): pass", "(f := 1)", "globals()['f'] = 1",
                 "def g():\n  global f\n  f = 1", "def __getattr__(n): pass", "f: int = 1"):
        equal((well, checked(well)), (well, (0, [])))
    for ill in "", "def g():\n  f = 1", "class A:\n  def f(): pass", "f", "x.f = 1", "lambda f: 1":
        equal((ill, checked(ill)), (ill, (1, ["main.py: handler main:f: the module defines no f"])))
    equal(checked("def f(p, c): pass", "asgi:main:f"), (0, []))
    equal(checked("def f(p, c): pass", "asgi:main:g")[0], 1)
    equal(checked("class f: pass", "main:f.g"), (0, []))
    equal(checked("def f(): pass", "main:f", "main.py"), (0, []))
    equal(checked("def f(:", "main:f", "main.py"), (1, ["main.py:3: invalid syntax"]))
    equal(checked({"main.py": "def f():\n  pass\nx y", "lib/a.py": "return 1", "lib/ok.py": "\n", "b.py": "a\0b",
                   "c.py": "(" * 500 + ")" * 500, "notes.txt": "x y", "site-packages/bad.py": "x y"})[0], 1)
    status, lines = checked({"main.py": "def f():\n  pass\nx y", "lib/a.py": "\nreturn 1", "b.py": "a\0b",
                             "site-packages/bad.py": "x y"})
    equal(status, 1)
    holds(lines, "main.py:3: invalid syntax")
    holds(lines, "lib/a.py:2: 'return' outside function")
    equal(len(lines), 3)
    holds(lines[0], "b.py: source code")
    status, lines = checked({"c.py": "(" * 5000 + ")" * 5000, "main.py": "f = 1"})
    equal((status, len(lines)), (1, 1))
    for handler in "main", "main:", ":f", "a:b:c", "asgi:main:":
        equal((handler, checked("f = 1", handler)[0]), (handler, 1))
    equal(checked("f = 1", "pkg.other:f"), (1, ["handler pkg.other:f: there is neither pkg/other.py nor pkg/other/__init__.py"]))
    equal(checked({"pkg/other.py": "f = 1"}, "pkg.other:f"), (0, []))
    equal(checked({"site-packages/lib.py": "f = 1"}, "lib:f"), (0, []))
    equal(checked({"lib.cpython-311-x86_64-linux-gnu.so": "\0"}, "lib:f"), (0, []))
    equal(checked({"a.py": ""}, "json:dumps"), (0, []))
    status, lines = checked(dict({"%d.py" % i: "" for i in range(2001)}, **{"main.py": "f = 1"}))
    equal(status, 2)
    holds(lines[0], "more than 2000 source files")


def functions(name):
    code, handler = {
        "echo": ("def f(p, c): return p", "main:f"),
        "hundred": ("def f(p, c):\n    for i in range(int(p) // 50000): yield b'x' * 50000", "main:f"),
        "children": ("import os, subprocess\ndef f(p, c): return subprocess.run("
                     "['/bin/ls', '-l', '/proc/self/fd'], stdout=-1, close_fds=False).stdout", "main:f"),
        "noisy": ("def f(p, c):\n    print('x' * int(p))\n    print('last line')", "main:f"),
        "thaw": ("import faaskit\nseen = []\n@faaskit.on_thaw\ndef hook(s): seen.append(s)\n"
                 "def f(p, c): return seen", "main:f"),
        "no module": ("", "other:f"),
        "no function": ("f = 3", "main:f"),
        "raises": ("raise KeyError", "main:f"),
        "malformed": ("def f(p, c): pass", "main"),
    }[name]
    return {"main.py": code}, handler


if __name__ == "__main__":
    main(functions, globals(), [sys.argv[1], "-IB", sys.argv[2]], sys.argv[3:])
