"""node_test.py NODE RUNTIME [quick | slow | CASE ...]: the Node runtime as its host sees it.

If these failed: a function would not get its call, or a caller not its reply, as docs/protocol.md and the
runtime's own text promise.
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from both import main
from peer import *  # noqa: F403

HEADERS = [(b":method", b"GET"), (b":path", b"/a%20b/c?q=1"), (b":subject", b"ann"), (b"accept", b"text/html"),
           (b"x-tag", b"one"), (b"x-tag", b"two")]
EVAL = {"index.js": "exports.f = (p, context) => eval('(' + p + ')');"}


def hello_says_times(command):
    code = "const { setTimeout: sleep } = require('timers/promises');\nexports.init = () => sleep(30);\nexports.f = (p) => p;"
    with Sandbox(command, {"index.js": code}, "index:f") as s:
        holds(s.hello.get(4), b"node ")
        check(1000 < s.hello.get(5) < 10_000_000, "runtime_us", s.hello.get(5))
        check(29_000 <= s.hello.get(6) < 10_000_000, "init_us", s.hello.get(6))


def plain_replies(command):
    with Sandbox(command, EVAL, "index:f") as s:
        for text, payload, content_type in (
                (b"Buffer.from('abc')", b"abc", "application/octet-stream"),
                (b"new Uint8Array([1, 2]).subarray(1)", b"\2", "application/octet-stream"),
                (b"new Uint8Array([1, 2]).buffer", b"\1\2", "application/octet-stream"),
                (b"'caf\\u00e9'", b"caf\xc3\xa9", "text/plain; charset=utf-8"),
                (b"{a: 1}", b'{"a":1}', "application/json"),
                (b"[1, 2]", b"[1,2]", "application/json"),
                (b"Promise.resolve('later')", b"later", "text/plain; charset=utf-8"),
                (b"{body: 'x'}", b'{"body":"x"}', "application/json"),
                (b"{body: 'x', status: 200, other: 1}", b'{"body":"x","status":200,"other":1}', "application/json"),
                (b"undefined", b"", ""),
                (b"null", b"", "")):
            answer = s.ok(text)
            equal((answer.payload, answer.content_type, answer.metadata), (payload, content_type, []))
            check(answer.head is None, "not one frame")
        for text, what in ((b"3", "handler returned a number"), (b"Symbol()", "handler returned a symbol"),
                           (b"(() => { const a = {}; a.a = a; return a; })()", "circular")):
            answer = s.call(text)
            equal(answer.status, 2)
            holds(answer.message, what)
        equal(s.ok(b"'still here'").payload, b"still here")


def replies_with_options(command):
    with Sandbox(command, EVAL, "index:f") as s:
        answer = s.ok(b"{body: 'hi', status: 404, contentType: 'a/b', "
                      b"headers: {'X-One': 1, 'set-cookie': ['a', 'b'], 'Content-Length': '7'}}")
        equal((answer.payload, answer.content_type), (b"hi", "a/b"))
        equal(answer.metadata, [(b":status", b"404"), (b"x-one", b"1"), (b"set-cookie", b"a"), (b"set-cookie", b"b")])
        answer = s.ok(b"{body: {a: 1}, headers: [['Content-Type', 'c/d'], ['x', '']]}")
        equal((answer.payload, answer.content_type, answer.metadata), (b'{"a":1}', "c/d", [(b"x", b"")]))
        equal(s.ok(b"{body: null, headers: new Map([['a', 'b']])}").metadata, [(b"a", b"b")])
        answer = s.ok(b"{body: 'x'.repeat(300), headers: {a: 'b'}}", f10=100)
        equal((answer.head.get(2), answer.metadata, len(answer.bodies)), (300, [(b"a", b"b")], 3))
        for options, what in (
                (b"status: 99", "status is 99"), (b"status: '200'", "status is 200"),
                (b"headers: {'a b': 'c'}", "no name of a header"), (b"headers: {':path': 'c'}", "no name of a header"),
                (b"headers: {'': 'c'}", "no name"), (b"headers: {a: 'b\\r\\nc: d'}", "line break"),
                (b"headers: {a: 'b\\0'}", "NUL"), (b"headers: {a: 'b'.repeat(32768)}", "32769 bytes"),
                (b"headers: {a: Array(257).fill('b')}", "257 headers"),
                (b"contentType: 'b'.repeat(1025)", "1025 bytes, the limit is 1024")):
            answer = s.call(b"{body: 'hi', %s}" % options)
            equal((answer.status, answer.payload, answer.metadata), (2, b"", []))
            holds(answer.message, what)
        equal(len(s.ok(b"{body: 'hi', headers: {a: Array(256).fill('b'.repeat(126))}}").metadata), 256)


def context_tells_of_the_call(command):
    code = """exports.f = (p, c) => ({ headers: c.headers, subject: c.subject, method: c.method, path: c.path,
      id: c.requestId, type: c.contentType, idle: c.idleForSeconds, cold: c.cold, left: c.remaining(),
      max: c.maxReplyBytes });"""
    with Sandbox(command, {"index.js": code}, "index:f") as s:
        found = json.loads(s.ok(b"", f13=HEADERS, f8=b"t/u", f6=1_500_000).payload)
        equal(found["headers"], {"accept": "text/html", "x-tag": "one, two"})
        equal([found[key] for key in ("subject", "method", "path", "id", "type", "idle", "cold", "max")],
              ["ann", "GET", "/a%20b/c?q=1", "rq-abc-1", "t/u", 1.5, True, 6 << 20])
        check(9000 < found["left"] <= 10_000, found["left"])
        found = json.loads(s.ok().payload)
        equal([found[key] for key in ("headers", "subject", "method", "path", "cold")], [{}, "", "POST", "/", False])


PARTS = """
const fs = require('fs');
const { Readable } = require('stream');
exports.two = async function* () { yield 'one'; yield ''; yield Buffer.from('two'); };
exports.none = async function* () {};
exports.sync = function* () { yield 'one'; yield 'two'; };
exports.readable = () => ({ body: Readable.from(['A', 'B']), status: 201, headers: { a: 'b' }, contentType: 'x/y' });
exports.broken = async function* () {
  try { yield 'x'; throw new RangeError('midway'); } finally { fs.writeSync(2, 'closed\\n'); }
};
exports.large = async function* () {
  try { for (;;) yield 'x'.repeat(1000); } finally { fs.writeSync(2, 'closed\\n'); }
};
exports.wrong = function* () { yield 'x'; yield 3; };
exports.crumbs = function* () { for (let i = 0; i < 80000; ++i) yield '0123456789'; };
exports.window = function* () { yield 'x'.repeat(1000); yield 'y'.repeat(1000); yield 'z'; };
exports.gate = async function* () {
  yield 'first';
  await fs.promises.readFile(__dirname + '/gate');
  yield 'second';
};
"""


def parts(name):
    return {"index.js": PARTS}, "index:" + name


def parts_without_a_stream(command):
    with Sandbox(command, *parts("two")) as s:
        answer = s.ok()
        equal((answer.head, answer.payload, answer.content_type), (None, b"onetwo", "text/plain; charset=utf-8"))
    with Sandbox(command, *parts("broken")) as s:
        answer = s.call()
        equal((answer.head, answer.status, answer.payload), (None, 2, b""))
        holds(answer.message, "RangeError: midway")
    with Sandbox(command, *parts("large")) as s:
        answer = s.call(b"", f12=10_000)
        equal((answer.head, answer.status), (None, 2))
        holds(answer.message, "reply has 11000 bytes or more, the limit is 10000")
        equal(s.log().count(b"closed"), 1)


def parts_as_a_stream(command):
    for name in "two", "sync":
        with Sandbox(command, *parts(name)) as s:
            answer = s.ok(f14=1)
            equal((answer.head.get(4), 2 in answer.head.envelope, answer.bodies), (1, False, [b"one", b"two"]))
            equal((answer.content_type, answer.end.payload), ("text/plain; charset=utf-8", b""))
    with Sandbox(command, *parts("none")) as s:
        answer = s.ok(f14=1)
        equal((answer.head, answer.payload), (None, b""))
    with Sandbox(command, *parts("readable")) as s:
        answer = s.ok(f14=1)
        equal((answer.bodies, answer.content_type, answer.metadata),
              ([b"A", b"B"], "x/y", [(b":status", b"201"), (b"a", b"b")]))
    with Sandbox(command, *parts("broken")) as s:
        for _ in range(2):
            answer = s.call(f14=1)
            equal((answer.bodies, answer.status, answer.end.payload), ([b"x"], 2, b""))
            holds(answer.message, "midway")
    with Sandbox(command, *parts("wrong")) as s:
        holds(s.call(f14=1).message, "a reply's part is a number")
    with Sandbox(command, *parts("large")) as s:
        answer = s.call(f14=1, f12=10_500)
        equal((len(b"".join(answer.bodies)), answer.status), (10_000, 2))
        holds(answer.message, "the limit is 10500")


def a_part_goes_out_before_the_next_is_made(command):
    with Sandbox(command, *parts("gate")) as s:
        gate = s.folder + "/code/gate"
        os.mkfifo(gate)
        s.begin(f14=1)
        equal(s.read().kind, REPLY_HEAD)
        equal(s.read().payload, b"first")
        open(gate, "wb").close()
        equal([s.read().payload, s.read().kind], [b"second", END])


def a_window_is_kept(command):
    """A part beyond the credit waits for it, and other frames are answered meanwhile."""
    with Sandbox(command, *parts("window")) as s:
        s.begin(f14=1, f11=1500, f10=1024)
        equal(s.read().kind, REPLY_HEAD)
        equal([len(s.read().payload), len(s.read().payload)], [1000, 500])
        s.frame(CREDIT, 99, message(f1=1000))  # of no call of ours
        s.frame(RESUMED)
        s.frame(CANCEL, 1)
        s.frame(PING, 0, message(f1x=8))
        ping = s.read()
        equal((ping.kind, ping.flags), (PING, PONG))
        s.frame(CREDIT, 1, message(f1=300))
        equal(s.read().payload, b"y" * 300)
        s.frame(DRAIN)
        s.frame(CREDIT, 1, message(f1=300))
        equal([s.read().payload, s.read().payload, s.read().kind], [b"y" * 200, b"z", END])
        equal(s.wait(), 0)


def a_generator_is_closed_with_its_channel(command):
    with Sandbox(command, *parts("large")) as s:
        s.begin(f14=1)
        for _ in range(16):
            s.read()
        s.channel.close()
        equal(s.wait(), 0)
        equal(s.log(), b"closed\n")


def a_buffer_may_be_used_again(command):
    """What a function yielded is sent as it was, even if it waited to be written."""
    code = """
const block = Buffer.alloc(65536);
exports.f = async function* () {
  for (let i = 0; i < 16; ++i) yield block.fill(i);
  require('fs').writeSync(2, 'all made\\n');
};"""
    with Sandbox(command, {"index.js": code}, "index:f") as s:
        s.begin(f14=1)
        check(select.select([s.log_read], [], [], PATIENCE)[0], "they are never made")
        equal(s.answer().payload, b"".join(bytes([i]) * 65536 for i in range(16)))


def crumbs_are_joined_in_the_end(command):
    with Sandbox(command, *parts("crumbs")) as s:
        answer = s.ok(f14=1)
        equal(answer.payload, b"0123456789" * 80000)
        equal({len(body) for body in answer.bodies[:65000]}, {10})
        check(len(answer.bodies) <= 65536, len(answer.bodies))
        check(min(map(len, answer.bodies[65000:-1])) >= 512, "crumbs")


def modules_of_every_kind(command):
    esm = "await null;\nimport { name } from 'lib';\nexport const f = async () => import.meta.url.split('/').pop() + name;"
    lib = {"node_modules/lib/index.js": "exports.name = ' with lib';"}
    cjs = "const path = require('path');\nexports.f = () => path.basename(__filename) + require('lib').name;"
    for files, handler, file, expected in (
            ({"index.mjs": esm}, "index:f", None, b"index.mjs with lib"),
            ({"index.mjs": esm}, "index:f", "index.mjs", b"index.mjs with lib"),
            ({"index.js": esm, "package.json": '{"type": "module"}'}, "index:f", None, b"index.js with lib"),
            ({"a/b.js": esm, "package.json": '{"type": "module"}'}, "a/b:f", None, b"b.js with lib"),
            ({"index.js": cjs}, "index:f", None, b"index.js with lib"),
            ({"index.cjs": cjs}, "index:f", None, b"index.cjs with lib"),
            ({"index.js": cjs}, "whatever:f", "index.js", b"index.js with lib"),
            ({"a/b.js": cjs, "a/package.json": '{"type": "commonjs"}', "package.json": '{"type": "module"}'},
             "a/b:f", None, b"b.js with lib"),
            ({"index.js": "exports.a = { b: { name: 'method', f() { return this.name; } } };"}, "index:a.b.f", None,
             b"method"),
            ({"index.mjs": "export default { f: () => 'default' };"}, "index:f", None, b"default")):
        with Sandbox(command, dict(files, **lib), handler, file=file) as s:
            equal(s.ok().payload, expected)


def an_error_is_the_calls_alone(command):
    with Sandbox(command, EVAL, "index:f") as s:
        for text, what in ((b"(() => { throw new RangeError('at once'); })()", "RangeError: at once"),
                           (b"Promise.reject(new Error('later'))", "Error: later"),
                           (b"(() => { throw null; })()", "thrown: null"), (b"(() => { throw 'text'; })()", "thrown: text"),
                           (b"Promise.reject({ toString() { throw 1; } })", "cannot be printed"),
                           (b"(() => { throw new Error('x'.repeat(20000)); })()", "Error: xxx")):
            answer = s.call(text)
            equal(answer.status, 2)
            holds(answer.message, what)
            check(len(answer.message) <= 8192, len(answer.message))
        holds(s.log(), b"    at ")
        equal(s.ok(b"'still here'").payload, b"still here")


def what_nobody_catches_ends_the_sandbox(command):
    for text in (b"new Promise(() => setImmediate(() => { throw new Error('astray'); }))",
                 b"(Promise.reject(new Error('astray')), new Promise(() => {}))"):
        with Sandbox(command, EVAL, "index:f") as s:
            # A call that comes at once after END is left in the socket: proof that it did not begin.
            answer = s.call(text)
            equal((answer.status, answer.message), (2, "Error: astray"))
            equal(s.wait(), 1)
            holds(s.log(), b"Error: astray")
    for text in (b"(setTimeout(() => { throw new Error('astray'); }, 20), 'well')",
                 b"(setTimeout(() => Promise.reject(new Error('astray')), 20), 'well')"):
        with Sandbox(command, EVAL, "index:f") as s:
            equal(s.ok(text).payload, b"well")
            equal(s.wait(), 1)
            holds(s.log(), b"Error: astray")
    with Sandbox(command, {"index.js": "setTimeout(() => { throw new Error('astray'); }); exports.f = () => 1;"
                           "exports.init = () => new Promise(() => {});"}, "index:f", hello=False) as s:
        equal(s.wait(), 1)
        holds(s.log(), b"Error: astray")


def what_nobody_catches_takes_no_answer_away(command):
    throw = b"setImmediate(() => { throw new Error('astray'); })"
    # The function has returned, and its answer waits: for its output to be read,
    with Sandbox(command, EVAL, "index:f") as s:
        s.begin(b"(" + throw + b", process.stdout.write('x'.repeat(1 << 20) + '!'), 'well')")
        s.until_logged(b"Error: astray")
        s.until_logged(b"!")
        answer = s.answer()
        equal((answer.status, answer.payload), (0, b"well"))
        equal(s.wait(), 1)
    # or for credit.
    with Sandbox(command, EVAL, "index:f") as s:
        s.begin(b"(" + throw + b", Buffer.alloc(3 << 20, 'y'))")
        s.until_logged(b"Error: astray")
        answer = s.answer()
        equal((answer.status, answer.payload == b"y" * (3 << 20)), (0, True))
        equal(s.wait(), 1)


def a_call_after_a_fatal_one_is_not_read(command):
    with Sandbox(command, EVAL, "index:f") as s:
        s.begin(b"new Promise(() => setImmediate(() => { throw new Error('astray'); }))")
        equal(s.read().kind, END)
        try:
            s.begin(b"1")
            equal(s.channel.recv(1), b"never")
        except (ConnectionResetError, BrokenPipeError):
            return
        except Failure:
            pass
        raise Failure("the stream ended as if the call had been read")


def an_init_that_never_ends_is_named(command):
    for files in ({"index.js": "exports.init = () => new Promise(() => {}); exports.f = () => 1;"},
                  {"index.mjs": "await new Promise(() => {}); export const f = () => 1;"}):
        with Sandbox(command, files, "index:f", hello=False) as s:
            check(s.wait() != 0, "it ended well")
            check(s.log(), "it did not say why")
    with Sandbox(command, {"index.js": "exports.init = async () => { throw new Error('no database'); }; exports.f = 1;"
                           "exports.f = () => 1;"}, "index:f", hello=False) as s:
        equal(s.wait(), 1)
        holds(s.log(), b"no database")


def code_is_checked_without_running_it(command):
    trap = "process.exit(7);\n"

    def checked(files, handler="index:f", file=None):
        if isinstance(files, str):
            files = {"index.js": trap + files}
        return run_check(command, files, handler, file)

    equal(checked("exports.f = () => 1;"), (0, []))
    equal(checked("exports.f = () => 1;", "any:f", "index.js"), (0, []))
    equal(checked("return 1;"), (0, []))
    equal(checked({"index.js": "#!/usr/bin/node\n" + trap}), (0, []))
    equal(checked("\nlet = = 1;"), (1, ["index.js:3: Unexpected token '='"]))
    equal(checked("}); (function () {")[0], 1)
    equal(checked({"index.mjs": trap + "import a from 'nowhere';\nawait 1;\nexport const f = 1;"}), (0, []))
    equal(checked({"index.mjs": trap + "export const f = = 1;"}), (1, ["index.mjs:2: Unexpected token '='"]))
    equal(checked({"index.js": trap + "export const f = 1;", "package.json": '{"type": "module"}'}), (0, []))
    equal(checked({"index.js": trap + "export const f = = 1;", "package.json": '{"type": "module"}'}),
          (1, ["index.js:2: Unexpected token '='"]))
    equal(checked({"index.cjs": trap + "export const f = 1;"})[0], 1)
    status, lines = checked({"index.js": trap, "lib/a.js": "a b", "lib/b.mjs": "\nc d", "notes.txt": "x y",
                             "node_modules/bad.js": "x y", "package.json": "{"})
    equal((status, len(lines)), (1, 2))
    holds(lines[1], "package.json: ")
    status, lines = checked({"index.js": trap, "lib/a.js": "a b", "lib/b.mjs": "\nc d", "lib/node_modules/bad.js": "x y"})
    equal((status, lines), (1, ["lib/a.js:1: Unexpected identifier 'b'", "lib/b.mjs:2: Unexpected identifier 'd'"]))
    equal(checked("", "other:f"), (1, ["handler other:f: there is no other with .js, .cjs, .mjs"]))
    for handler in "index", "index:", ":f", "a:b:c":
        equal((handler, checked("", handler)[0]), (handler, 1))
    equal(checked({"a/b.js": trap}, "a/b:f"), (0, []))
    status, lines = checked(dict({"%d.js" % i: "" for i in range(2001)}, **{"index.js": ""}))
    equal(status, 2)
    holds(lines[0], "more than 2000 source files")


def functions(name):
    code, handler = {
        "echo": ("exports.f = (p) => p;", "index:f"),
        "hundred": ("const block = Buffer.alloc(50000, 'x');\n"
                    "exports.f = async function* (p) { for (let i = 0; i < p / 50000; ++i) yield block; };", "index:f"),
        "children": ("const { spawnSync } = require('child_process');\n"
                     "exports.f = () => spawnSync('/bin/ls', ['-l', '/proc/self/fd']).stdout;", "index:f"),
        "noisy": ("exports.f = (p) => { console.log('x'.repeat(p)); console.log('last line'); };", "index:f"),
        "thaw": ("const seen = [];\nexports.onThaw = async (s) => { await null; seen.push(s); };\n"
                 "exports.f = () => seen;", "index:f"),
        "no module": ("", "other:f"),
        "no function": ("exports.f = 3;", "index:f"),
        "raises": ("throw new Error('no');", "index:f"),
        "malformed": ("exports.f = () => 1;", "index"),
    }[name]
    return {"index.js": code}, handler


if __name__ == "__main__":
    if not os.access(sys.argv[1], os.X_OK):
        print("SKIPPED: there is no node at %s" % sys.argv[1])
        sys.exit(77)
    main(functions, globals(), sys.argv[1:3], sys.argv[3:])
