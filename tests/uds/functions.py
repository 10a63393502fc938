"""Functions for process_test.cc."""
import faaskit

thawed = []


@faaskit.on_thaw
def registered(idle_for):
    thawed.append("registered %.3f" % idle_for)


def on_thaw(idle_for):
    thawed.append("module %.3f" % idle_for)


def handler(payload, context):
    what = context.content_type
    if what == "raise":
        raise ValueError(payload.decode())
    if what == "leave":
        raise SystemExit(payload.decode())
    if what == "exit":
        import os

        os._exit(3)
    if what == "print":
        print(payload.decode(), end="")
    if what == "left":
        left = context.remaining()
        return "hours" if left > 3600 else "some" if left > 0 else "none"
    if what == "size":
        return b"z" * int(payload)
    if what == "thaw":
        return ", ".join(thawed)
    if what == "cold":
        return "cold" if context.cold else "warm"
    if what == "trace":
        return context.trace
    if what == "json":
        return {"id": context.request_id, "in_time": 4 < context.remaining() <= 5}
    if what == "object":
        return object()
    if what == "close":
        import os

        os.close(3)
    if what == "hang":
        import signal

        print("hanging", flush=True)
        signal.pause()
    context.reply_content_type = what
    return payload
