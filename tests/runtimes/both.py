"""What every runtime must do, whatever its language. The functions are the test's: see FUNCTIONS there."""
import os
import struct
import sys

from peer import *  # noqa: F403


def cases(functions):
    """functions(name): the Sandbox arguments (files, handler) of "echo", "hundred", "children", "noisy",
    "thaw", "exits" and "lost"."""

    def payloads_of_any_size(command):
        with Sandbox(command, *functions("echo")) as s:
            for size in 0, 1, 65535, 65536, 1 << 20, (1 << 20) + 1, 5 << 20:
                payload = os.urandom(size)
                answer = s.ok(payload)
                check(answer.payload == payload, "%d bytes came back otherwise" % size)
                equal(answer.head is None, size <= 1 << 20)
            payload = os.urandom(300_000)
            answer = s.ok(payload, frame=1000, f11=5000)
            check(answer.payload == payload and len(answer.bodies) >= 300, "not in frames of 1000")
            check(max(map(len, answer.bodies)) <= 1000, "frames too large")
            equal(s.ok(b"x" * 10, f12=10).payload, b"x" * 10)
            answer = s.call(b"x" * 11, f12=10)
            equal((answer.status, answer.payload), (2, b""))
            holds(answer.message, "reply has 11 bytes, the limit is 10")

    def nothing_goes_beyond_the_window(command):
        with Sandbox(command, *functions("echo")) as s:
            s.begin(b"x" * 3000, frame=1000, f11=1500)
            equal(s.read().get(2), 3000)
            equal([len(s.read().payload), len(s.read().payload)], [1000, 500])
            s.frame(PING, 0, message(f1x=1))
            equal(s.read().kind, PING)
            s.frame(CREDIT, 1, message(f1=1500))
            equal([len(s.read().payload), len(s.read().payload), s.read().kind], [1000, 500, END])

    def an_idle_one_answers_pings(command):
        """Before its first call and between calls, as often as it is asked, and no answer itself."""
        with Sandbox(command, *functions("echo")) as s:
            for nonce in 1, 2, (1 << 64) - 1:
                s.ping(nonce)
            s.ok(b"x")
            s.ping(0)
            s.ping(3, call=7)
            s.frame(PING, 0, message(f1x=4), flags=PONG)  # an answer is not answered
            s.ping(5)
            equal(s.ok(b"y").payload, b"y")

    def frames_in_crumbs(command):
        """Each byte arrives by itself."""
        with Sandbox(command, *functions("echo")) as s:
            envelope = message(f1=1, f2x=1, f3=1, f4=1, f9=4, f10=2)
            frames = struct.pack("<4sBBHQII", b"FKIT", 1, CALL, 0, 1, len(envelope), 2) + envelope + b"ab"
            frames += struct.pack("<4sBBHQII", b"FKIT", 1, 99, SKIP, 0, 1, 1) + b"zz"
            frames += struct.pack("<4sBBHQII", b"FKIT", 1, BODY, 0, 1, 0, 2) + b"cd"
            s.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            for i in range(len(frames)):
                s.send(frames[i : i + 1])
            s.calls = 1
            equal(s.answer().payload, b"abcd")

    def two_frames_in_one_read(command):
        with Sandbox(command, *functions("echo")) as s:
            call = message(f1=1, f9=2)
            s.send(b"".join(struct.pack("<4sBBHQII", b"FKIT", 1, kind, 0, n, len(e), len(p)) + e + p for kind, n, e, p in (
                (PING, 0, message(f1x=5), b""), (CALL, 1, call, b"hi"), (DRAIN, 0, b"", b""))))
            equal(s.read().kind, PING)
            equal(s.read().payload, b"hi")
            equal(s.wait(), 0)

    def hostile_frames_end_it(command):
        good = message(f1=1, f9=0)

        def frame(magic=b"FKIT", version=1, kind=CALL, flags=0, call=1, envelope=good, payload=b"", size=None):
            return struct.pack("<4sBBHQII", magic, version, kind, flags, call, len(envelope),
                               len(payload) if size is None else size) + envelope + payload

        for name, data in (
                ("magic", frame(magic=b"EVIL")), ("version", frame(version=2)), ("flags", frame(flags=4)),
                ("envelope", frame(envelope=b"\0" * 65537)), ("payload", frame(kind=PING, envelope=b"", size=(1 << 20) + 1)),
                ("more than announced", frame(payload=b"x")), ("garbage", frame(envelope=b"\xff" * 20)),
                ("half a field", frame(envelope=b"\x3a\x05ab")), ("wire type", frame(envelope=b"\x0b")),
                ("unknown type", frame(kind=77)), ("body of no call", frame(kind=BODY, envelope=b"", payload=b"x")),
                ("body of another", frame(envelope=message(f9=5)) + frame(kind=BODY, call=2, envelope=b"", payload=b"x")),
                ("too long a body", frame(envelope=message(f9=1)) + frame(kind=BODY, envelope=b"", payload=b"xx")),
                ("four gigabytes", frame(kind=99, flags=SKIP, envelope=b"", size=(1 << 32) - 1))):
            with Sandbox(command, *functions("echo")) as s:
                s.send(data)
                check(s.wait() == 1, "%s: it ended with %s" % (name, s.process.returncode))
                check(s.log(), "%s: it did not say why" % name)

    def the_end_of_the_stream_is_the_end(command):
        with Sandbox(command, *functions("echo")) as s:
            s.ok(b"x")
            s.channel.close()
            equal((s.wait(), s.log()), (0, b""))
        with Sandbox(command, *functions("echo")) as s:
            s.frame(DRAIN)
            equal((s.wait(), s.log()), (0, b""))

    def children_do_not_inherit_the_channel(command):
        with Sandbox(command, *functions("children")) as s:
            channel = os.readlink("/proc/%d/fd/3" % s.process.pid)
            links = s.ok().payload.decode()
            check(channel.startswith("socket:") and " 0 -> " in links and channel not in links, channel, links)

    def what_was_printed_is_there_before_end(command):
        """More than a pipe holds: the runtime has to wait for whoever reads it."""
        with Sandbox(command, *functions("noisy")) as s:
            for _ in range(3):
                s.logged = b""
                s.begin(b"300000")
                while b"last line" not in s.logged:
                    check(select.select([s.log_read], [], [], PATIENCE)[0], "nothing more is printed")
                    check(not select.select([s.channel], [], [], 0)[0] or len(s.log()) > 240_000, "END came first")
                    s.log()
                equal(s.answer().status, 0)
                equal(len(s.logged), 300_000 + len("\nlast line\n"))

    def thaw_hooks_run_first(command):
        with Sandbox(command, *functions("thaw")) as s:
            equal(s.ok().payload, b"[]")
            equal(s.ok(f6=2_500_000).payload, b"[2.5]")
            equal(s.ok().payload, b"[2.5]")

    def a_stream_of_100_mb_takes_no_memory(command):
        with Sandbox(command, *functions("hundred")) as s:
            s.ok(b"1000000", f14=1, f12=1 << 30)
            before = s.memory()
            s.begin(b"100000000", f14=1, f12=1 << 30)
            total = 0
            while True:
                frame = s.read()
                if frame.kind == END:
                    break
                if frame.kind == BODY:
                    total += len(frame.payload)
                    s.frame(CREDIT, s.calls, message(f1=len(frame.payload)))
            equal((total, frame.get(1)), (100_000_000, 0))
            check(s.memory() - before < 40 << 20, "memory grew by %d KiB" % ((s.memory() - before) >> 10))

    def a_slow_reader_holds_the_function_up(command):
        """Nobody takes anything: the function must not make the whole reply in memory."""
        with Sandbox(command, *functions("hundred")) as s:
            s.ok(b"1000000", f14=1, f12=1 << 30)
            before = s.memory()
            s.begin(b"100000000", f14=1, f12=1 << 30)
            got = 0
            while got < 1 << 20:
                got += len(s.read().payload)
            s.frame(PING, 0, message(f1x=1))
            equal(s.read().kind, PING)
            equal(got, 1 << 20)
            check(s.memory() - before < 40 << 20, "memory grew by %d KiB" % ((s.memory() - before) >> 10))

    def a_bad_init_says_why(command):
        for name in "no module", "no function", "raises", "malformed":
            with Sandbox(command, *functions(name), hello=False) as s:
                check(s.wait() == 1, "%s: it ended with %s" % (name, s.process.returncode))
                check(s.log(), "%s: it did not say why" % name)
                equal(s.channel.recv(1), b"")

    return [case for name, case in sorted(locals().items(), key=lambda item: getattr(item[1], "__code__", None) and
                                          item[1].__code__.co_firstlineno or 0) if name not in ("functions",)]


SLOW = ["crumbs_are_joined_in_the_end", "a_stream_of_100_mb_takes_no_memory"]


def main(functions, module, command, arguments):
    """Runs the cases of both, with `functions`, and those of `module` (its globals): its functions of one argument
    called `command`. arguments: "quick", "slow", or names of cases."""
    all_cases = cases(functions) + [
        value for value in list(module.values())
        if getattr(value, "__module__", None) == module["__name__"] and callable(value)
        and value.__code__.co_varnames[: value.__code__.co_argcount] == ("command",)]
    if arguments == ["slow"]:
        arguments = SLOW
    elif arguments == ["quick"]:
        arguments = [case.__name__ for case in all_cases if case.__name__ not in SLOW]
    sys.exit(run(all_cases, command, arguments))
