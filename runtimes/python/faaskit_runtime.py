"""Worker side of a faaskit channel for Python 3.9 or later; one file, standard library only.

    python3 -I faaskit_runtime.py CODE MODULE:CALLABLE

CODE is a .py file or a folder. Descriptor 3 is the channel (docs/protocol.md). The function is

    def handler(payload: bytes, context) -> bytes | str | dict | list | None

and may raise: the caller gets the error, the sandbox serves on. A module may define `on_thaw(idle_for)`,
or register hooks (`import faaskit; @faaskit.on_thaw`); they run before a call that follows an idle spell
of `idle_for` seconds, so that connections which went stale can be renewed.
"""
# Start-up is part of every cold start, so nothing is imported here that the interpreter has not loaded
# anyway, or that is not a C module. json and traceback come when they are first needed.
import os
import sys
from _struct import Struct
from time import monotonic, perf_counter_ns

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
    """The fields of a Protobuf message: {number: int or bytes}. Unknown ones are harmless."""
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
            found[key >> 3] = value
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
    __slots__ = ("fd", "buffer", "position")

    def __init__(self, fd):
        os.set_inheritable(fd, False)
        os.set_blocking(fd, True)
        self.fd = fd
        self.buffer = b""
        self.position = 0

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
    """What a handler may know about its call."""

    __slots__ = (
        "request_id", "deadline", "trace", "content_type", "idle_for", "cold", "reply_content_type",
    )

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

    def run(self):
        version = sys.version_info
        runtime = b"python %d.%d.%d" % (version[0], version[1], version[2])
        hello = uint_field(1, PROTOCOL) + uint_field(2, PROTOCOL) + bytes_field(4, runtime)
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
        context.cold = self.cold
        context.reply_content_type = None
        self.cold = False

        limit = envelope.get(12, DEFAULT_REPLY)
        started = perf_counter_ns()
        status = OK
        message = content_type = b""
        try:
            if context.idle_for > 0:
                for hook in self.hooks():
                    hook(context.idle_for)
            reply, content_type = to_bytes(self.handler(payload, context), context)
            if len(reply) > limit:
                raise ValueError("reply has %d bytes, the limit is %d" % (len(reply), limit))
            if len(content_type) > MAX_CONTENT_TYPE:
                raise ValueError("reply's content type has %d bytes, the limit is %d"
                                 % (len(content_type), MAX_CONTENT_TYPE))
        except BaseException as error:
            status, message = UNKNOWN, describe(error)
            reply = content_type = b""
        run_time = (perf_counter_ns() - started) // 1000
        flush()

        frame = self.frame_limit
        end = uint_field(1, status) + bytes_field(2, message)
        timing = uint_field(4, run_time)
        if len(reply) <= frame:
            self.channel.send(END, 0, call, end + bytes_field(3, content_type) + timing, reply)
        else:
            head = bytes_field(1, content_type) + uint_field(2, len(reply))
            self.channel.send(REPLY_HEAD, 0, call, head)
            self.send_body(call, memoryview(reply), frame, envelope.get(11, DEFAULT_WINDOW))
            self.channel.send(END, 0, call, end + timing)

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

    def send_body(self, call, reply, frame, credit):
        while len(reply):
            while not credit:
                kind, flags, of_call, envelope_size, size = self.channel.header()
                if kind == CALL:
                    raise ProtocolError("a call while another one runs")
                granted = self.other(kind, flags, of_call, envelope_size, size)
                if of_call == call:
                    credit += granted
            part = reply[: min(frame, credit)]
            self.channel.send(BODY, 0, call, b"", part)
            credit -= len(part)
            reply = reply[len(part) :]


def to_bytes(value, context):
    if isinstance(value, bytes):
        reply, content_type = value, "application/octet-stream"
    elif isinstance(value, str):
        reply, content_type = value.encode(), "text/plain; charset=utf-8"
    elif value is None:
        reply, content_type = b"", ""
    elif isinstance(value, (bytearray, memoryview)):
        reply, content_type = bytes(value), "application/octet-stream"
    elif isinstance(value, (dict, list)):
        import json

        reply, content_type = json.dumps(value).encode(), "application/json"
    else:
        name = type(value).__name__
        raise TypeError("handler returned %s; bytes, str, dict, list or None is expected" % name)
    return reply, (context.reply_content_type or content_type).encode()


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


def load(code, target):
    """Imports the function: this is its own init. Returns (handler, hooks)."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ValueError("handler %r is not of the form module:callable" % target)

    registered = []

    def on_thaw(hook):
        registered.append(hook)
        return hook

    api = type(sys)("faaskit")
    api.on_thaw = on_thaw
    api.Context = Context
    sys.modules["faaskit"] = api

    if os.path.isdir(code):
        sys.path.insert(0, code)
        __import__(module_name)
        module = sys.modules[module_name]
    else:
        # By path and not by name: the file may have been mounted under another one. importlib.util
        # would do the same, after some milliseconds of imports.
        from _frozen_importlib import module_from_spec
        from _frozen_importlib_external import spec_from_file_location

        sys.path.insert(0, os.path.dirname(os.path.abspath(code)))
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
    try:
        if len(argv) != 3:
            raise ValueError("usage: faaskit_runtime.py CODE MODULE:CALLABLE, the channel on descriptor 3")
        channel = Channel(FD)
        sys.argv = [argv[1]]
        handler, hooks = load(argv[1], argv[2])
        flush()
    except BaseException as error:
        describe(error)
        leave(1)
    status = 0
    try:
        Worker(channel, handler, hooks).run()
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


if __name__ == "__main__":
    main(sys.argv)
