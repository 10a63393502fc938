"""Worker side of a faaskit channel for Python 3.9 or later; one file, standard library only.

    python3 -I faaskit_runtime.py CODE HANDLER
    python3 -I faaskit_runtime.py CODE HANDLER --check

CODE is a .py file or a folder; a folder `site-packages` in it is importable too (its .pth files are not
executed). Descriptor 3 is the channel (docs/protocol.md). HANDLER is one of

    module:callable     def handler(payload: bytes, context) -> reply
    asgi:module:app     an ASGI 3 application: http, and lifespan around the sandbox's life
    wsgi:module:app     a WSGI application (PEP 3333)

Applications find the context as "faaskit.context" in their scope or environ, and who was authenticated in
REMOTE_USER or context.subject.

A reply is bytes, str, None, a dict or a list (sent as JSON), or an iterator of bytes or str, such as a
generator: each item is sent as it comes, to a caller that takes streams. Or a pair of one of these and
a dict of what goes with it, all optional:

    return b"...", {"content_type": "image/png", "headers": {"cache-control": "no-store"}, "status": 200}

`headers` may also be a list of pairs, and a value a list of values. A function may raise: the caller gets
the error, the sandbox serves on. `context` tells about the call; see Context. A module may define
`on_thaw(idle_for)`, or register hooks (`import faaskit; @faaskit.on_thaw`); they run before a call that
follows an idle spell of `idle_for` seconds, so that connections which went stale can be renewed.

With --check nothing of the code is run: every source file is parsed, the handler is looked for, and what
is wrong goes to stderr ("main.py:3: invalid syntax"). Exit status 0: well, 1: at fault, 2: cannot tell.
"""
# Start-up is part of every cold start, so nothing is imported here that the interpreter has not loaded
# anyway, or that is not a C module. json and traceback come when they are first needed. For the same reason
# what few functions need is text until then (WEB, CHECK): to compile a line takes 5 us of every cold start.
import os
import sys
from _struct import Struct
from time import monotonic, perf_counter_ns, process_time_ns

FD = 3
PROTOCOL = 1
MAGIC = b"FKIT"
HEADER = Struct("<4sBBHQII")  # magic, version, type, flags, call id, envelope bytes, payload bytes
FIXED64 = Struct("<Q")

HELLO, CALL, REPLY_HEAD, BODY, END, CREDIT, CANCEL, LOG, DRAIN, PING, RESUMED, SPECIALISE = range(1, 13)
SKIP_IF_UNKNOWN, PONG = 1, 2
KNOWN_FLAGS = SKIP_IF_UNKNOWN | PONG

# What a CALL means by leaving a field out.
DEFAULT_FRAME = 1 << 20
DEFAULT_WINDOW = 1 << 20
DEFAULT_REPLY = 6 << 20

OK, UNKNOWN = 0, 2  # canonical status codes
MAX_ENVELOPE = 64 << 10
MAX_MESSAGE = 8 << 10
MAX_CONTENT_TYPE = 1 << 10
MAX_PAIRS = 256
MAX_METADATA = 32 << 10
# Of one reply; from then on what the function writes is joined to 512 bytes.
MANY_FRAMES = 65000

CALL_METADATA = 13  # the one field that repeats
HEADER_NAME = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
# Of one connection, which is not the function's.
HOP_BY_HOP = frozenset((b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"trailer",
                        b"transfer-encoding", b"upgrade"))


class ProtocolError(Exception):
    """The host sent what docs/protocol.md does not allow."""


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def uint_field(number, value):
    return bytes((number << 3,)) + varint(value) if value else b""


def bytes_field(number, value):
    return bytes((number << 3 | 2,)) + varint(len(value)) + value if value else b""


def fields(data):
    """The fields of a Protobuf message: {number: int or bytes}, metadata a list. Unknown ones are harmless."""
    found = {}
    i, end = 0, len(data)
    try:
        while i < end:
            key = data[i]
            i += 1
            if key > 127:
                key, i = read_varint(data, i - 1)
            kind = key & 7
            if kind == 0:
                value = data[i]
                i += 1
                if value > 127:
                    value, i = read_varint(data, i - 1)
            elif kind == 2:
                size = data[i]
                i += 1
                if size > 127:
                    size, i = read_varint(data, i - 1)
                value = data[i : i + size]
                i += size
            elif kind == 1:
                value = FIXED64.unpack_from(data, i)[0]
                i += 8
            elif kind == 5:
                value = int.from_bytes(data[i : i + 4], "little")
                i += 4
            else:
                raise ProtocolError("envelope has wire type %d" % kind)
            if key >> 3 != CALL_METADATA:
                found[key >> 3] = value
            elif kind == 2:
                found.setdefault(CALL_METADATA, []).append(value)
    except Exception as error:
        raise ProtocolError("envelope cannot be parsed: %s" % error) from None
    if i != end:
        raise ProtocolError("envelope ends inside a field")
    return found


def read_varint(data, i):
    value = shift = 0
    while True:
        byte = data[i]
        i += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, i
        shift += 7
        if shift > 63:
            raise ProtocolError("varint of more than ten bytes")


class Channel:
    __slots__ = ("fd", "buffer", "position", "poll")

    def __init__(self, fd):
        os.set_inheritable(fd, False)
        os.set_blocking(fd, True)
        self.fd = fd
        self.buffer = b""
        self.position = 0
        self.poll = None

    def input_first(self):
        """Waits until a frame can be written, False, or is there to be read, True."""
        if self.position < len(self.buffer):
            return True
        if self.poll is None:
            from select import POLLIN, POLLOUT, poll

            self.poll = poll()
            self.poll.register(self.fd, POLLIN | POLLOUT)
        return self.poll.poll()[0][1] != 4  # POLLOUT alone

    def header(self):
        while len(self.buffer) - self.position < 24:
            chunk = os.read(self.fd, 65536)
            if not chunk:
                raise EOFError
            rest = self.buffer[self.position :]
            self.buffer = rest + chunk if rest else chunk
            self.position = 0
        magic, version, kind, flags, call, envelope, payload = HEADER.unpack_from(self.buffer, self.position)
        if magic != MAGIC or version != PROTOCOL:
            raise ProtocolError("frame starts with %r, version %d" % (magic, version))
        if flags & ~KNOWN_FLAGS or envelope > MAX_ENVELOPE:
            raise ProtocolError("frame has flags %04x, an envelope of %d bytes" % (flags, envelope))
        self.position += 24
        return kind, flags, call, envelope, payload

    def take(self, size):
        end = self.position + size
        if end <= len(self.buffer):
            data = self.buffer[self.position : end]
            self.position = end
            return data
        data = bytearray(size)
        self.fill(memoryview(data))
        return bytes(data)

    def fill(self, view):
        """Fills `view`, straight from the socket once the buffer is empty."""
        have = self.buffer[self.position : self.position + len(view)]
        self.position += len(have)
        view[: len(have)] = have
        view = view[len(have) :]
        while len(view):
            count = os.readv(self.fd, [view])
            if not count:
                raise EOFError
            view = view[count:]

    def send(self, kind, flags, call, envelope, payload=b""):
        head = HEADER.pack(MAGIC, PROTOCOL, kind, flags, call, len(envelope), len(payload)) + envelope
        if len(payload) <= 16384:
            parts = [memoryview(head + payload)]
        else:
            parts = [memoryview(head), memoryview(payload)]
        while parts:
            count = os.writev(self.fd, parts)
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if count:
                parts[0] = parts[0][count:]


class Context:
    """What a handler may know about its call.

    request_id, trace; content_type: of the payload; deadline: on time.monotonic(); idle_for: seconds that
    the sandbox was idle before; cold: the first call here; max_reply_bytes; reply_content_type: may be set.
    """

    __slots__ = (
        "request_id", "deadline", "trace", "content_type", "idle_for", "cold", "reply_content_type",
        "max_reply_bytes", "_pairs", "_metadata", "_headers",
    )

    @property
    def metadata(self):
        """What came with the payload, in order: a list of (name, value), both bytes."""
        if self._metadata is None:
            pairs = map(fields, self._pairs)
            self._metadata = [(pair.get(1, b""), pair.get(2, b"")) for pair in pairs]
        return self._metadata

    @property
    def headers(self):
        """A dict of the caller's headers, names in lower case; values of one name are joined by commas."""
        if self._headers is None:
            self._headers = headers = {}
            for name, value in self.metadata:
                if not name.startswith(b":"):
                    name, value = name.decode("utf-8", "replace"), value.decode("utf-8", "replace")
                    headers[name] = headers[name] + ", " + value if name in headers else value
        return self._headers

    def about(self, name, default=b""):
        """The metadata that does not come from the caller: b":method", b":path", b":subject", ..."""
        for have, value in self.metadata:
            if have == name:
                return value
        return default

    @property
    def subject(self):
        """Who was authenticated; empty if nobody was."""
        return self.about(b":subject").decode("utf-8", "replace")

    @property
    def method(self):
        return self.about(b":method", b"POST").decode("utf-8", "replace")

    @property
    def path(self):
        """With its query."""
        return self.about(b":path", b"/").decode("utf-8", "replace")

    def remaining(self):
        """Seconds left until the host gives up on this call."""
        return max(0.0, self.deadline - monotonic())


class Worker:
    def __init__(self, channel, handler, hooks):
        self.channel = channel
        self.handler = handler
        self.hooks = hooks
        self.cold = True
        self.draining = False
        # Of one frame's payload: what the call at hand, or the last one, said.
        self.frame_limit = DEFAULT_FRAME

    def check_payload(self, size, most):
        if size > most or size > self.frame_limit:
            raise ProtocolError("frame payload of %d bytes; %d are left, the limit of a frame is %d"
                                % (size, most, self.frame_limit))

    def run(self, runtime_us, init_us):
        version = sys.version_info
        runtime = b"python %d.%d.%d" % (version[0], version[1], version[2])
        hello = uint_field(1, PROTOCOL) + uint_field(2, PROTOCOL) + bytes_field(4, runtime)
        hello += uint_field(5, runtime_us) + uint_field(6, init_us)
        self.channel.send(HELLO, 0, 0, hello)
        while not self.draining:
            kind, flags, call, envelope_size, payload_size = self.channel.header()
            if kind == CALL:
                self.serve(call, fields(self.channel.take(envelope_size)), payload_size)
            else:
                self.other(kind, flags, call, envelope_size, payload_size)

    def other(self, kind, flags, call, envelope_size, payload_size):
        """A frame that does not start a call. Returns the bytes of a CREDIT, else 0."""
        self.check_payload(payload_size, self.frame_limit)
        envelope = self.channel.take(envelope_size)
        payload = self.channel.take(payload_size)
        if kind == CREDIT:
            return fields(envelope).get(1, 0)
        if kind == DRAIN:
            self.draining = True
        elif kind == PING:
            if not flags & PONG:
                self.channel.send(PING, PONG, call, envelope, payload)
        elif kind == CANCEL or kind == RESUMED:
            pass  # a call runs to its end; the idle time of a resumed sandbox comes with its next call
        elif not flags & SKIP_IF_UNKNOWN:
            raise ProtocolError("frame of type %d" % kind)
        return 0

    def serve(self, call, envelope, payload_size):
        # The function starts only when the whole call is here: the host relies on it to tell whether a
        # call whose sandbox died can safely run elsewhere.
        total = envelope.get(9, 0)
        self.frame_limit = envelope.get(10, DEFAULT_FRAME)
        self.check_payload(payload_size, total)
        payload = self.channel.take(payload_size)
        if total != payload_size:
            payload = self.rest_of_payload(call, payload, total)

        context = Context()
        context.request_id = "rq-%x-%d" % (envelope.get(2, 0), envelope.get(3, 0))
        context.deadline = monotonic() + envelope.get(5, 0) / 1e6
        context.idle_for = envelope.get(6, 0) / 1e6
        context.trace = envelope.get(7, b"")
        context.content_type = envelope.get(8, b"").decode("utf-8", "replace")
        context.reply_content_type = context._metadata = context._headers = None
        context._pairs = envelope.get(CALL_METADATA, ())
        context.max_reply_bytes = envelope.get(12, DEFAULT_REPLY)
        context.cold = self.cold
        self.cold = False

        reply = Reply(self, call, envelope)
        status, message = OK, b""
        started = perf_counter_ns()
        try:
            if context.idle_for > 0:
                for hook in self.hooks():
                    hook(context.idle_for)
            reply.give(self.handler(payload, context), context)
        except BaseException as error:
            if reply.broken is not None:
                raise reply.broken from None
            status, message = UNKNOWN, describe(error)
            reply.forget()
        run_time = (perf_counter_ns() - started) // 1000
        flush()
        reply.end(uint_field(1, status) + bytes_field(2, message), uint_field(4, run_time))

    def rest_of_payload(self, call, first, total):
        payload = bytearray(total)
        view = memoryview(payload)
        view[: len(first)] = first
        at = len(first)
        while at < total:
            kind, flags, of_call, envelope_size, size = self.channel.header()
            if kind != BODY:
                self.other(kind, flags, of_call, envelope_size, size)
                continue
            if of_call != call or envelope_size:
                raise ProtocolError("body for call %d, envelope of %d bytes" % (of_call, envelope_size))
            self.check_payload(size, total - at)
            self.channel.fill(view[at : at + size])
            at += size
        return bytes(payload)


class Reply:
    """The answer of one call, on its way out."""

    __slots__ = (
        "worker", "call", "limit", "frame", "window", "credit", "streams", "content_type", "metadata", "payload",
        "begun", "frames", "broken",
    )

    def __init__(self, worker, call, envelope):
        self.worker = worker
        self.call = call
        self.limit = envelope.get(12, DEFAULT_REPLY)
        self.frame = worker.frame_limit
        self.window = self.credit = envelope.get(11, DEFAULT_WINDOW)
        self.streams = envelope.get(14, 0) == 1
        self.begun = False  # REPLY_HEAD went out
        self.frames = 0
        self.broken = None  # what ended the channel, in the midst of the function
        self.forget()

    def forget(self):
        self.content_type = self.payload = b""
        self.metadata = ()

    def give(self, value, context):
        options = None
        if type(value) is tuple and len(value) == 2 and isinstance(value[1], dict):
            value, options = value
        if hasattr(value, "__next__"):
            self.give_parts(value, options, context)
            return
        payload, content_type = to_bytes(value)
        if len(payload) > self.limit:
            raise ValueError("reply has %d bytes, the limit is %d" % (len(payload), self.limit))
        self.go_with(content_type, options, context)
        self.payload = payload

    def go_with(self, content_type, options, context):
        """Settles what goes beside the payload."""
        if options:
            self.metadata, chosen = read_options(options)
            content_type = chosen or content_type
        content_type = as_bytes(context.reply_content_type or content_type)
        if len(content_type) > MAX_CONTENT_TYPE:
            raise ValueError("reply's content type has %d bytes, the limit is %d"
                             % (len(content_type), MAX_CONTENT_TYPE))
        self.content_type = content_type

    def give_parts(self, parts, options, context):
        size = 0
        held = bytearray()  # until the end; or, of a long stream of crumbs, until there is enough for a frame
        enough = max(1, min(512, self.frame // 2))
        try:
            for part in parts:
                if not isinstance(part, (bytes, bytearray, memoryview, str)):
                    raise TypeError("a reply's part is %s; bytes or str is expected" % type(part).__name__)
                part, content_type = to_bytes(part)
                if not part:
                    continue
                if not size:
                    self.go_with(content_type, options, context)
                size += len(part)
                if size > self.limit:
                    raise ValueError("reply has %d bytes or more, the limit is %d" % (size, self.limit))
                if not self.streams:
                    held += part
                elif self.frames < MANY_FRAMES:
                    self.send_part(part, 1)
                else:
                    held += part
                    if len(held) >= enough:
                        self.send_part(held, min(enough, self.window))
                        held = bytearray()
            if not size:
                self.go_with("", options, context)
            elif not self.streams:
                self.payload = held
            elif held:
                self.send_part(held, min(len(held), self.window))
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    def send_part(self, part, least):
        try:
            self.begin(uint_field(4, 1))
            # A host may grant what it takes frame by frame: that must not pile up while we cannot write.
            while self.worker.channel.input_first():
                self.take_credit()
            self.send_body(part, least)
        except (EOFError, OSError, ProtocolError) as error:
            self.broken = error
            raise

    def begin(self, length):
        if not self.begun:
            self.begun = True
            head = bytes_field(1, self.content_type) + length + pair_fields(3, self.metadata)
            self.worker.channel.send(REPLY_HEAD, 0, self.call, head)

    def send_body(self, payload, least):
        """In frames of at least `least` bytes, but for the last."""
        rest = memoryview(payload)
        while len(rest):
            while self.credit < min(least, len(rest)):
                self.take_credit()
            part = rest[: min(self.frame, self.credit)]
            self.worker.channel.send(BODY, 0, self.call, b"", part)
            self.frames += 1
            self.credit -= len(part)
            rest = rest[len(part) :]

    def take_credit(self):
        kind, flags, of_call, envelope_size, size = self.worker.channel.header()
        if kind == CALL:
            raise ProtocolError("a call while another one runs")
        granted = self.worker.other(kind, flags, of_call, envelope_size, size)
        if of_call == self.call:
            self.credit += granted

    def end(self, outcome, timing):
        if not self.begun and len(self.payload) <= self.frame:
            outcome += bytes_field(3, self.content_type) + timing + pair_fields(5, self.metadata)
            self.worker.channel.send(END, 0, self.call, outcome, self.payload)
            return
        if not self.begun:
            self.begin(uint_field(2, len(self.payload)))
            self.send_body(self.payload, 1)
        self.worker.channel.send(END, 0, self.call, outcome + timing)


def to_bytes(value):
    if isinstance(value, bytes):
        return value, "application/octet-stream"
    if isinstance(value, str):
        return value.encode(), "text/plain; charset=utf-8"
    if value is None:
        return b"", ""
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value), "application/octet-stream"
    if isinstance(value, (dict, list)):
        import json

        return json.dumps(value).encode(), "application/json"
    raise TypeError("handler returned %s; bytes, str, dict, list, None or an iterator is expected"
                    % type(value).__name__)


def as_bytes(text):
    return text if isinstance(text, bytes) else str(text).encode()


def pair_fields(number, pairs):
    return b"".join([bytes_field(number, bytes_field(1, name) + bytes_field(2, value)) for name, value in pairs])


def read_options(options):
    """What a function returned beside its payload: (pairs, content type), checked."""
    unknown = options.keys() - {"content_type", "headers", "status"}
    if unknown:
        raise ValueError("reply has %s; content_type, headers and status are known" % ", ".join(map(repr, unknown)))
    content_type = options.get("content_type") or ""
    pairs = []
    status = options.get("status")
    if status is not None:
        if type(status) is not int or not 200 <= status <= 599:
            raise ValueError("reply's status is %r; 200 to 599 is expected" % (status,))
        pairs.append((b":status", b"%d" % status))
    headers = options.get("headers") or ()
    for name, values in headers.items() if isinstance(headers, dict) else headers:
        name = as_bytes(name).lower()
        if not name or name.translate(None, HEADER_NAME):
            raise ValueError("reply's header %r is no name of a header" % name)
        for value in values if isinstance(values, (list, tuple)) else (values,):
            value = as_bytes(value)
            if value.translate(None, b"\0\r\n") != value:
                raise ValueError("reply's header %s has a line break, or a NUL" % name.decode())
            if name == b"content-type":
                content_type = content_type or value
            elif name not in HOP_BY_HOP:
                pairs.append((name, value))
    size = sum([len(name) + len(value) for name, value in pairs])
    if len(pairs) > MAX_PAIRS or size > MAX_METADATA:
        raise ValueError("reply has %d headers of %d bytes, the limits are %d and %d"
                         % (len(pairs), size, MAX_PAIRS, MAX_METADATA))
    return pairs, content_type


def describe(error):
    """Prints the end of the traceback, and returns "Type: message" for the caller."""
    try:
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__, limit=-20)
    except BaseException:
        pass
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:
        text = "<its message cannot be printed>"
    return ("%s: %s" % (name, text) if text else name).encode("utf-8", "replace")[:MAX_MESSAGE]


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass  # closed or replaced by the function; its own affair


def split_handler(target):
    """(kind, module, attribute); kind is "asgi", "wsgi" or empty."""
    kind, _, rest = target.partition(":")
    if kind not in ("asgi", "wsgi") or ":" not in rest:
        kind, rest = "", target
    module_name, _, attribute = rest.partition(":")
    if not module_name or not attribute or ":" in attribute:
        raise ValueError("handler %r is not of the form module:callable" % target)
    return kind, module_name, attribute


def load(code, target):
    """Imports the function: this is its own init. Returns (handler, hooks)."""
    kind, module_name, attribute = split_handler(target)
    registered = []

    def on_thaw(hook):
        registered.append(hook)
        return hook

    api = type(sys)("faaskit")
    api.on_thaw = on_thaw
    api.Context = Context
    sys.modules["faaskit"] = api

    folder = code if os.path.isdir(code) else os.path.dirname(os.path.abspath(code))
    sys.path.insert(0, folder)
    packages = folder + "/site-packages"
    if os.path.isdir(packages):
        sys.path.insert(1, packages)
    if folder == code:
        __import__(module_name)
        module = sys.modules[module_name]
    else:
        # By path and not by name: the file may have been mounted under another one. importlib.util
        # would do the same, after some milliseconds of imports.
        from _frozen_importlib import module_from_spec
        from _frozen_importlib_external import spec_from_file_location

        spec = spec_from_file_location(module_name, code)
        if spec is None:
            raise ImportError("%s is neither a folder nor a .py file" % code)
        module = module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)

    handler = module
    for part in attribute.split("."):
        handler = getattr(handler, part)
    if not callable(handler):
        raise TypeError("%s is not callable" % target)

    if kind:
        web = {"__name__": "faaskit.web"}
        exec(compile(WEB, "faaskit_web", "exec"), web)
        handler = web[kind](handler)

    def hooks():
        own = getattr(module, "on_thaw", None)
        if own is None or own is on_thaw or own in registered:
            return registered
        return [own] + registered

    return handler, hooks


def leave(status):
    # Not sys.exit(): it would wait for the function's threads, for ever if they never end.
    flush()
    os._exit(status)


def main(argv):
    if len(argv) == 4 and argv[3] == "--check":
        checks = {"split_handler": split_handler}
        exec(compile(CHECK, "faaskit_check", "exec"), checks)
        leave(checks["check"](argv[1], argv[2]))
    try:
        if len(argv) != 3:
            raise ValueError("usage: faaskit_runtime.py CODE HANDLER, the channel on descriptor 3")
        channel = Channel(FD)
        sys.argv = [argv[1]]
        # Nobody tells when the program was started. It was busy ever since, so its processor time will do.
        runtime_us = process_time_ns() // 1000
        started = perf_counter_ns()
        handler, hooks = load(argv[1], argv[2])
        init_us = (perf_counter_ns() - started) // 1000
        flush()
    except BaseException as error:
        describe(error)
        leave(1)
    status = 0
    try:
        Worker(channel, handler, hooks).run(runtime_us, init_us)
    except (EOFError, ConnectionError):
        pass  # the host is done with this sandbox
    except ProtocolError as error:
        describe(error)
        status = 1
    try:
        import atexit

        atexit._run_exitfuncs()
    except BaseException as error:
        describe(error)
    leave(status)


# ASGI and WSGI. Both come down to what a handler may return.
WEB = r'''
import atexit
from binascii import unhexlify


def unquote(path):
    """%41 -> A, on bytes; what is no such thing stays as it is."""
    parts = path.split(b"%")
    for i, part in enumerate(parts[1:], 1):
        try:
            parts[i] = unhexlify(part[:2]) + part[2:]
        except ValueError:
            parts[i] = b"%" + part
    return b"".join(parts)


class Request:
    def __init__(self, payload, context):
        self.method = context.about(b":method", b"POST").decode("latin-1").upper()
        self.scheme = context.about(b":scheme", b"http").decode("latin-1")
        self.raw_path, _, self.query = context.about(b":path", b"/").partition(b"?")
        self.path = unquote(self.raw_path)
        # The length is known better here, and of names that repeat below, ours must be the only one.
        ours = {b"content-length": b"%d" % len(payload)}
        if context.content_type:
            ours[b"content-type"] = context.content_type.encode()
        host = context.about(b":host")
        if host:
            ours[b"host"] = host
        self.headers = [pair for pair in context.metadata if pair[0][:1] != b":" and pair[0] not in ours]
        self.headers += ours.items()
        host = dict(self.headers).get(b"host", b"localhost").decode("latin-1")
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit():
            name, port = host, "443" if self.scheme == "https" else "80"
        self.server = name, int(port)


def wsgi(app):
    import io
    import sys

    def serve(payload, context):
        request = Request(payload, context)
        environ = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": request.path.decode("latin-1"),
            "QUERY_STRING": request.query.decode("latin-1"),
            "SERVER_NAME": request.server[0],
            "SERVER_PORT": str(request.server[1]),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": request.scheme,
            "wsgi.input": io.BytesIO(payload),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "faaskit.context": context,
        }
        if context.subject:
            environ["REMOTE_USER"] = context.subject
        for name, value in request.headers:
            # x_a and x-a would become the same: the one that proxies do not check is left out.
            if b"_" in name:
                continue
            key = name.decode("latin-1").upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = "HTTP_" + key
            value = value.decode("latin-1")
            if key in environ:
                value = environ[key] + ("; " if key == "HTTP_COOKIE" else ", ") + value
            environ[key] = value

        options = {}
        written = []
        size = 0
        begun = False

        def write(data):
            nonlocal size
            size += len(data)
            if size > context.max_reply_bytes:
                raise ValueError("reply has %d bytes or more, the limit is %d" % (size, context.max_reply_bytes))
            written.append(bytes(data))

        def start_response(status, headers, exc_info=None):
            if exc_info is not None:
                try:
                    if begun:
                        raise exc_info[1].with_traceback(exc_info[2])
                finally:
                    exc_info = None
            elif options:
                raise AssertionError("start_response() was called twice")
            options["status"] = int(status[:3])
            options["headers"] = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            return write

        result = app(environ, start_response)

        def parts():
            try:
                for part in result:
                    if written or part:
                        part = b"".join(written) + part
                        written.clear()
                        if part:
                            yield part
                if written:
                    yield b"".join(written)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()

        rest = parts()
        if isinstance(result, (list, tuple)):
            whole = b"".join(rest)
        else:
            whole = next(rest, b"")
        begun = True
        if not options:
            rest.close()
            raise RuntimeError("the application did not call start_response()")
        length = None
        for name, value in options["headers"]:
            if name.lower() == b"content-length":
                length = value
        # Complete already: then there is nothing to stream.
        if not whole or length == b"%d" % len(whole):
            whole += b"".join(rest)
        elif not isinstance(result, (list, tuple)):
            return chain(whole, rest), options
        return whole, options

    return serve


def chain(first, rest):
    try:
        yield first
        yield from rest
    finally:
        rest.close()


def asgi(app):
    import asyncio
    import collections

    class Exchange:
        """One request. The application is at most one message ahead of who takes its reply."""

        def __init__(self, scope, payload):
            self.payload = payload
            self.messages = collections.deque()
            self.news = asyncio.Event()
            self.room = asyncio.Event()
            self.over = asyncio.Event()
            self.task = asyncio.ensure_future(app(scope, self.receive, self.send))
            self.task.add_done_callback(lambda task: self.news.set())

        async def receive(self):
            if self.payload is None:
                await self.over.wait()
                return {"type": "http.disconnect"}
            body, self.payload = self.payload, None
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(self, message):
            while self.messages and not self.over.is_set():
                self.room.clear()
                await self.room.wait()
            if self.over.is_set():
                raise OSError("the response is complete, or nobody waits for it any more")
            self.messages.append(message)
            self.news.set()

        async def next(self):
            while not self.messages:
                if self.task.done():
                    self.task.result()
                    raise RuntimeError("the application ended before its response did")
                self.news.clear()
                await self.news.wait()
            self.room.set()
            return self.messages.popleft()

        async def finish(self):
            """The response is complete; lets the application come to its end, background tasks included."""
            self.over.set()
            self.room.set()
            try:
                await self.task
            except Exception:
                import traceback

                traceback.print_exc()

        async def abandon(self):
            self.over.set()
            self.room.set()
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=1)

    class Lifespan:
        def __init__(self):
            self.state = {}
            self.inbox = asyncio.Queue()
            self.outbox = asyncio.Queue()
            scope = {"type": "lifespan", "asgi": VERSIONS, "state": self.state}
            self.task = asyncio.ensure_future(app(scope, self.inbox.get, self.outbox.put))

        async def say(self, what):
            """False: the application has no lifespan."""
            self.inbox.put_nowait({"type": "lifespan." + what})
            answer = asyncio.ensure_future(self.outbox.get())
            await asyncio.wait({answer, self.task}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and self.outbox.empty():
                answer.cancel()
                if not self.task.cancelled():
                    self.task.exception()  # looked at: an application may raise on what it does not know
                return False
            message = await answer
            if message["type"] != "lifespan.%s.complete" % what:
                raise RuntimeError("%s: %s" % (message["type"], message.get("message", "")))
            return True

    VERSIONS = {"version": "3.0", "spec_version": "2.3"}
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    async def start():
        lifespan = Lifespan()
        return lifespan if await lifespan.say("startup") else None

    lifespan = loop.run_until_complete(start())
    if lifespan is not None:
        async def stop():
            await asyncio.wait_for(lifespan.say("shutdown"), 5)

        atexit.register(lambda: loop.run_until_complete(stop()))

    async def begin(scope, payload):
        exchange = Exchange(scope, payload)
        try:
            head = await exchange.next()
            if head["type"] != "http.response.start":
                raise RuntimeError("the application began its response with %s" % head["type"])
            return exchange, head, await body_of(exchange)
        except BaseException:
            await exchange.abandon()
            raise

    async def body_of(exchange):
        """(bytes, whether more is to come)"""
        message = await exchange.next()
        if message["type"] != "http.response.body":
            raise RuntimeError("%s in the midst of a response" % message["type"])
        more = message.get("more_body", False)
        if not more:
            await exchange.finish()
        return bytes(message.get("body", b"")), more

    def parts(exchange, part):
        more = True
        try:
            yield part
            while more:
                part, more = loop.run_until_complete(body_of(exchange))
                yield part
        finally:
            if more:
                loop.run_until_complete(exchange.abandon())

    def serve(payload, context):
        request = Request(payload, context)
        scope = {
            "type": "http",
            "asgi": VERSIONS,
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.scheme,
            "path": request.path.decode("utf-8", "replace"),
            "raw_path": request.raw_path,
            "query_string": request.query,
            "root_path": "",
            "headers": request.headers,
            "client": None,
            "server": request.server,
            "faaskit.context": context,
        }
        if lifespan is not None:
            scope["state"] = lifespan.state.copy()
        exchange, head, (part, more) = loop.run_until_complete(begin(scope, payload))
        options = {"status": head["status"], "headers": list(head.get("headers", ()))}
        return (parts(exchange, part) if more else part), options

    return serve
'''


# --check: what can be said of the code without running any of it.
CHECK = r'''
import ast
import os
import stat
import sys
import warnings

MAX_FILES = 2000
MAX_BYTES = 64 << 20
# Through these a name can come to a module unseen.
UNSEEN = {"exec", "eval", "globals", "locals", "vars", "setattr", "__dict__", "modules"}


class Incomplete(Exception):
    """Too much to look at, or it cannot be read."""


def sources(code):
    """(path, name for messages) of each source file, in order."""
    if not os.path.isdir(code):
        yield code, os.path.basename(code)
        return

    def failed(error):
        raise error

    for folder, folders, names in os.walk(code, onerror=failed):
        if folder == code and "site-packages" in folders:
            folders.remove("site-packages")
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.endswith(".py") and stat.S_ISREG(os.lstat(path).st_mode):
                yield path, os.path.relpath(path, code)


def parse(path, name):
    """The file's tree. Raises SyntaxError."""
    with open(path, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise Incomplete("%s has more than %d MiB" % (name, MAX_BYTES >> 20))
    try:
        tree = ast.parse(text, name)
        compile(text, name, "exec", dont_inherit=True)
        return tree
    except ValueError as error:  # a NUL
        raise SyntaxError(str(error)) from None
    except (RecursionError, MemoryError):
        raise SyntaxError("nested too deeply") from None


def binds(tree, wanted):
    """Whether a module's top level binds the name; true as well where that cannot be told."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global) and wanted in node.names:
            return True
        if isinstance(node, ast.Name) and node.id in UNSEEN or isinstance(node, ast.Attribute) and node.attr in UNSEEN:
            return True
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        kind = type(node).__name__
        if kind in ("FunctionDef", "AsyncFunctionDef", "ClassDef"):
            if node.name in (wanted, "__getattr__"):
                return True
            waiting += node.decorator_list
            continue
        if kind == "Lambda":
            continue
        if kind == "alias":
            if (node.asname or node.name.partition(".")[0]) in (wanted, "*"):
                return True
        elif kind == "Name":
            if node.id == wanted and isinstance(node.ctx, ast.Store):
                return True
        elif wanted in (getattr(node, "name", None), getattr(node, "rest", None)):  # except, case
            return True
        waiting += ast.iter_child_nodes(node)
    return False


def module_file(code, module):
    """(path, name) of the module's source; None: it is not there; "": it is, or may be, but not as source."""
    if not os.path.isdir(code):
        return code, os.path.basename(code)
    stem = module.replace(".", "/")
    for folder in code, os.path.join(code, "site-packages"):
        for name in stem + "/__init__.py", stem + ".py":
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                return path, os.path.relpath(path, code)
        parent, last = os.path.split(os.path.join(folder, stem))
        if os.path.isdir(parent):
            for entry in os.listdir(parent):
                if entry == last or entry.startswith(last + ".") and entry.endswith((".so", ".pyc")):
                    return ""
    # One of Python's own will do.
    top = module.partition(".")[0]
    return "" if top in getattr(sys, "stdlib_module_names", (top,)) else None


def look(code, target):
    """What is wrong, line by line."""
    try:
        _, module, attribute = split_handler(target)
    except ValueError as error:
        yield str(error)
        return
    if not os.path.exists(code):
        raise Incomplete("%s is not there" % code)
    wrong = False
    files = size = 0
    for path, name in sources(code):
        files += 1
        size += os.path.getsize(path)
        if files > MAX_FILES or size > MAX_BYTES:
            raise Incomplete("more than %d source files, or %d MiB of them" % (MAX_FILES, MAX_BYTES >> 20))
        try:
            parse(path, name)
        except SyntaxError as error:
            wrong = True
            line = ":%d" % error.lineno if error.lineno else ""
            yield "%s%s: %s" % (name, line, error.msg)
    found = module_file(code, module)
    if found is None:
        stem = module.replace(".", "/")
        yield "handler %s: there is neither %s.py nor %s/__init__.py" % (target, stem, stem)
    elif found and not wrong:
        try:
            tree = parse(*found)
        except SyntaxError as error:  # in site-packages
            yield "%s:%s: %s" % (found[1], error.lineno or 0, error.msg)
            return
        name = attribute.partition(".")[0]
        if not binds(tree, name):
            yield "%s: handler %s: the module defines no %s" % (found[1], target, name)


def check(code, target):
    warnings.simplefilter("ignore")
    status = 0
    try:
        for line in look(code, target):
            print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
            status = 1
    except (Incomplete, OSError) as error:
        print("not all was looked at: %s" % error, file=sys.stderr)
        status = status or 2
    return status
'''



if __name__ == "__main__":
    main(sys.argv)
