"""Statistics over a text: lines, words, distinct words, the longest word, the ten most frequent.

A word is a run of ASCII letters, without regard to case.
"""
import re
from collections import Counter

WORD = re.compile(rb"[a-z]+")


def handler(payload, context):
    words = Counter(word.decode() for word in WORD.findall(payload.lower()))
    ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    return {
        "lines": payload.count(b"\n") + (not payload.endswith(b"\n") if payload else 0),
        "words": sum(words.values()),
        "distinct": len(words),
        "longest": min(words, key=lambda word: (-len(word), word), default=""),
        "top": ranked[:10],
    }
