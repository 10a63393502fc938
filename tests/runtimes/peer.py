"""The host's end of a channel, for tests: speaks docs/protocol.md to a runtime that runs as a plain child."""
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

HEADER = struct.Struct("<4sBBHQII")
HELLO, CALL, REPLY_HEAD, BODY, END, CREDIT, CANCEL, LOG, DRAIN, PING, RESUMED, SPECIALISE = range(1, 13)
SKIP, PONG = 1, 2
PATIENCE = 60  # seconds, for anything; a machine may be busy with others


class Failure(Exception):
    pass


class Skipped(Exception):
    pass


def check(condition, *what):
    if not condition:
        raise Failure(" ".join(map(str, what)))


def equal(found, expected):
    check(found == expected, "found %.2000r, expected %.2000r" % (found, expected))


def holds(found, part):
    check(part in found, "found %.2000r, without %r" % (found, part))


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(**numbered):
    """message(f1=3, f2=b"text", f13=[(name, value), ...]); f2 of a Call, the fixed64, is written as f2x."""
    out = b""
    for key, value in numbered.items():
        if key.endswith("x"):
            out += bytes((int(key[1:-1]) << 3 | 1,)) + struct.pack("<Q", value)
            continue
        number = int(key[1:])
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        else:
            for name, text in value:
                pair = message(f1=name, f2=text)
                out += varint(number << 3 | 2) + varint(len(pair)) + pair
    return out


def parse(data):
    """{number: [value, ...]}"""
    found = {}
    i = 0

    def read():
        nonlocal i
        value = shift = 0
        while True:
            byte = data[i]
            i += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while i < len(data):
        key = read()
        if key & 7 == 0:
            value = read()
        else:
            equal(key & 7, 2)
            size = read()
            value = data[i : i + size]
            i += size
        found.setdefault(key >> 3, []).append(value)
    equal(i, len(data))
    return found


def pairs(found, number):
    return [tuple(parse(pair).get(n, [b""])[0] for n in (1, 2)) for pair in found.get(number, ())]


class Frame:
    def __init__(self, kind, flags, call, envelope, payload):
        self.kind, self.flags, self.call, self.raw, self.payload = kind, flags, call, envelope, payload
        self.envelope = {} if kind == PING else parse(envelope)

    def get(self, number, default=0):
        return self.envelope.get(number, [default])[0]


class Answer:
    """A call's: END, what came before it, and the payload in one piece."""

    def __init__(self):
        self.head = self.end = None
        self.bodies = []

    @property
    def payload(self):
        return b"".join(self.bodies) + self.end.payload

    @property
    def status(self):
        return self.end.get(1)

    @property
    def message(self):
        return self.end.get(2, b"").decode()

    @property
    def content_type(self):
        return (self.head.get(1, b"") if self.head else self.end.get(3, b"")).decode()

    @property
    def metadata(self):
        return pairs(self.head.envelope, 3) if self.head else pairs(self.end.envelope, 5)


class Sandbox:
    """A runtime with a function; its code is a folder of the files given."""

    def __init__(self, command, files, handler, *more, file=None, hello=True, env=None):
        self.folder = tempfile.mkdtemp(prefix="faaskit-test-")
        write_files(self.folder, files)
        self.log_path = os.path.join(self.folder, "log.txt")
        code = os.path.join(self.folder, "code")
        if file:
            code = os.path.join(code, file)
        self.calls = 0
        ours, theirs = socket.socketpair()
        self.channel = ours
        self.log_read, log_write = os.pipe()
        os.set_blocking(self.log_read, False)
        self.logged = b""
        self.buffer = b""
        argv = command + [code, handler, *more]
        # By way of a shell, since a child's descriptor 3 cannot be had from Popen otherwise. The runtime must
        # itself see to it that its children do not inherit it.
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", 'exec "$@" 3<&%d %d<&-' % (theirs.fileno(), theirs.fileno()), "sh", *argv],
            stdin=subprocess.DEVNULL, stdout=log_write, stderr=log_write, pass_fds=[theirs.fileno()], env=env)
        os.close(log_write)
        theirs.close()
        ours.settimeout(PATIENCE)
        self.hello = None
        if hello:
            self.hello = self.read()
            equal(self.hello.kind, HELLO)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if error[0] is not None:
            print("the function's log:", self.log().decode("utf-8", "replace")[-4000:], file=sys.stderr)
        os.close(self.log_read)
        shutil.rmtree(self.folder)

    def log(self):
        """What is there now."""
        while select.select([self.log_read], [], [], 0)[0]:
            data = os.read(self.log_read, 1 << 16)
            if not data:
                break
            self.logged += data
        return self.logged

    def until_logged(self, part):
        deadline = time.monotonic() + PATIENCE
        while part not in self.log():
            check(time.monotonic() < deadline, "not logged:", part)
            select.select([self.log_read], [], [], 0.1)

    def wait(self):
        """Its exit status; the log is read meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while select.select([self.log_read], [], [], max(0, deadline - time.monotonic()))[0]:
            data = os.read(self.log_read, 1 << 16)
            if not data:
                break
            self.logged += data
        return self.process.wait(PATIENCE)

    def send(self, data):
        self.channel.sendall(data)

    def frame(self, kind, call=0, envelope=b"", payload=b"", flags=0):
        self.send(HEADER.pack(b"FKIT", 1, kind, flags, call, len(envelope), len(payload)) + envelope + payload)

    def exactly(self, size):
        parts = [self.buffer[:size]]
        self.buffer = self.buffer[size:]
        have = len(parts[0])
        while have < size:
            data = self.channel.recv(min(1 << 20, max(65536, size - have)))
            if not data:
                raise EOFError
            parts.append(data)
            have += len(data)
        data = b"".join(parts)
        self.buffer = data[size:] + self.buffer
        return data[:size]

    def read(self):
        magic, version, kind, flags, call, envelope, payload = HEADER.unpack(self.exactly(24))
        equal((magic, version), (b"FKIT", 1))
        return Frame(kind, flags, call, self.exactly(envelope), self.exactly(payload))

    def ping(self, nonce, call=0):
        """Asks, and takes the answer: the same frame with the flag, and nothing else."""
        envelope = message(f1x=nonce)
        self.frame(PING, call, envelope)
        pong = self.read()
        equal((pong.kind, pong.flags, pong.call, pong.raw, pong.payload), (PING, PONG, call, envelope, b""))

    def begin(self, payload=b"", frame=1 << 20, **fields):
        """Sends a call; its fields as message() takes them."""
        self.calls += 1
        fields = dict({"f1": self.calls, "f2x": 0xABC, "f3": self.calls, "f4": 1, "f5": 10_000_000}, **fields)
        fields["f9"] = len(payload)
        if frame != 1 << 20:
            fields["f10"] = frame
        self.frame(CALL, self.calls, message(**fields), payload[:frame])
        for at in range(frame, len(payload), frame):
            self.frame(BODY, self.calls, b"", payload[at : at + frame])

    def answer(self, grant=True):
        """Reads until END; grants what was taken as it comes."""
        answer = Answer()
        while True:
            frame = self.read()
            equal(frame.call, self.calls)
            if frame.kind == END:
                answer.end = frame
                return answer
            if frame.kind == REPLY_HEAD:
                check(answer.head is None and not answer.bodies, "a second head")
                answer.head = frame
            else:
                equal(frame.kind, BODY)
                check(answer.head is not None and frame.payload, "a body without head, or an empty one")
                answer.bodies.append(frame.payload)
                if grant:
                    self.frame(CREDIT, self.calls, message(f1=len(frame.payload)))

    def call(self, payload=b"", **fields):
        self.begin(payload, **fields)
        return self.answer()

    def ok(self, payload=b"", **fields):
        answer = self.call(payload, **fields)
        check(answer.status == 0, "failed: %s" % answer.message)
        return answer

    def memory(self):
        """Peak, in bytes."""
        with open("/proc/%d/status" % self.process.pid) as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) << 10


def write_files(folder, files):
    for name, text in files.items():
        path = os.path.join(folder, "code", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())


def run_check(command, files, handler, file=None):
    """(exit status, lines of stderr) of `--check`."""
    folder = tempfile.mkdtemp(prefix="faaskit-test-")
    try:
        os.mkdir(os.path.join(folder, "code"))
        write_files(folder, files)
        code = os.path.join(folder, "code", file) if file else os.path.join(folder, "code")
        done = subprocess.run(command + [code, handler, "--check"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
        equal(done.stdout, b"")
        return done.returncode, done.stderr.decode().splitlines()
    finally:
        shutil.rmtree(folder)


def run(cases, command, wanted):
    """Runs the cases of the names given, all if there are none. Returns the exit status."""
    failed = []
    for case in cases:
        name = case.__name__
        if wanted and name not in wanted:
            continue
        started = time.monotonic()
        try:
            case(command)
        except BaseException as error:
            import traceback

            traceback.print_exc()
            failed.append(name)
            if isinstance(error, KeyboardInterrupt):
                break
        print("%s: %s (%d ms)" % (name, "FAILED" if name in failed else "ok", (time.monotonic() - started) * 1e3))
    if failed:
        print("failed:", ", ".join(failed))
    return 1 if failed else 0
