"""Spelling suggestions: for each unknown word of a text the likeliest known word one edit away, and what
else is much like that one.

It starts slowly, as many real functions do: it imports a good part of the standard library, builds a table
of everything that is one edit away from a word it knows, and compares every two of those words. A call is
then a look-up per word. This is the cost that a warm sandbox spares its callers.
"""
# What a web-shaped function drags in before its first line of work.
import asyncio
import concurrent.futures
import decimal
import email.message
import http.client
import json
import logging.config
import multiprocessing.pool
import os
import re
import sqlite3
import statistics
import unittest.mock
import urllib.request
import xml.dom.minidom

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD = re.compile(r"[a-z]+")


def read_vocabulary():
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vocabulary.txt")) as lines:
        return {word: int(count) for word, count in map(str.split, lines)}


def one_edit_away(word):
    halves = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    for left, right in halves:
        if right:
            yield left + right[1:]
        if len(right) > 1:
            yield left + right[1] + right[0] + right[2:]
        for letter in LETTERS:
            yield left + letter + right
            if right:
                yield left + letter + right[1:]


def build_table(known):
    table = {}
    # The likeliest first: more frequent, then by the alphabet. The first to claim an entry keeps it.
    for word in sorted(known, key=lambda word: (-known[word], word)):
        for near in one_edit_away(word):
            table.setdefault(near, word)
    return table


def distance(a, b):
    """How many letters must be inserted, deleted or replaced to make `b` of `a` (Levenshtein)."""
    row = range(len(b) + 1)
    for i, letter in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != other)))
    return row[-1]


def find_neighbours(known):
    neighbours = {word: [] for word in known}
    words = sorted(known)
    for i, word in enumerate(words):
        for other in words[:i]:
            if abs(len(word) - len(other)) <= 2 and distance(word, other) <= 2:
                neighbours[word].append(other)
                neighbours[other].append(word)
    return neighbours


KNOWN = read_vocabulary()
TABLE = build_table(KNOWN)
NEIGHBOURS = find_neighbours(KNOWN)


def suggest(word):
    best = TABLE.get(word)
    return [] if best is None else [best] + sorted(NEIGHBOURS[best])


def handler(payload, context):
    words = WORD.findall(payload.decode("ascii", "replace").lower())
    unknown = sorted(set(word for word in words if word not in KNOWN))
    return {"words": len(words), "fixes": {word: suggest(word) for word in unknown}}
