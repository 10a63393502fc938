#!/usr/bin/env python3
"""Makes the demo's data, the same bytes every time:

    blobs.pgm                         an unevenly lit image of a few bright shapes, with noise
    ../functions/spell/vocabulary.txt the words of the licence's text, with their counts
"""
import os
import re
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, HEIGHT = 240, 160
SHAPES = [(50, 45, 28), (130, 80, 36), (200, 40, 20), (195, 125, 25), (45, 120, 22)]


def noise():
    state = 12345
    while True:
        state = (1103515245 * state + 12345) % 2**31
        yield (state >> 16) % 31 - 15


def image():
    grain = noise()
    rows = bytearray()
    for y in range(HEIGHT):
        for x in range(WIDTH):
            inside = any((x - cx) ** 2 + (y - cy) ** 2 < r * r for cx, cy, r in SHAPES)
            level = (175 if inside else 60) + (x * 40) // WIDTH + next(grain)
            rows.append(max(0, min(255, level)))
    return b"P5\n# five discs\n%d %d\n255\n" % (WIDTH, HEIGHT) + bytes(rows)


def vocabulary():
    with open(os.path.join(HERE, "..", "..", "..", "LICENSE"), encoding="ascii") as text:
        counts = Counter(re.findall("[a-z]+", text.read().lower()))
    return "".join("%s %d\n" % item for item in sorted(counts.items()))


def write(name, data):
    with open(os.path.join(HERE, name), "wb") as file:
        file.write(data)


write("blobs.pgm", image())
write("../functions/spell/vocabulary.txt", vocabulary().encode())
