"""A function whose init takes long, as that of one that loads a model: 8 s, asleep or computing.

Its calls are short: 20 ms, asleep, as those of a function that waits for a database.
"""
import os
import time

SECONDS = float(os.environ.get("INIT_SECONDS", "8"))
if os.environ.get("INIT_KIND", "sleep") == "cpu":
    while time.process_time() < SECONDS:
        pass
else:
    time.sleep(SECONDS)


def handler(payload, context):
    time.sleep(0.02)
    return payload
