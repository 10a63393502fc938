"""make_seeds.py CORPUS: the seeds that were made by hand; what else is in the corpus, fuzzing found.

Names say what a seed is about. Those of frames are decisions, see frames.h: the fuzzer found most of them itself.
"""
import gzip
import io
import os
import sys
import tarfile


def archive(*entries, fmt=tarfile.USTAR_FORMAT, compress=False):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as tar:
        for name, data, kind in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            info.mode = 0o755
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = data.decode()
            tar.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)
    # Without the padding to a whole record: 20 blocks for nothing.
    data = out.getvalue().rstrip(b"\0")
    data += b"\0" * (-len(data) % 512 + 1024)
    return gzip.compress(data, mtime=0) if compress else data


def files(*names):
    return [(name, b"print(1)\n", tarfile.REGTYPE) for name in names]


def request(text, how=b"\0"):
    return how + text.replace("\n", "\r\n").encode()


HOST = "\nHost: h\n"
SEEDS = {
    "hello": {
        "raw": b"\x00\x00\x00FKIT\x01\x01" + b"\0" * 10 + b"\x04\0\0\0" + b"\0" * 4 + b"\x08\x01\x10\x01",
        "envelope": b"\x01\x05\x00\x08\x01\x10\x01\x22\x06python\x28\x05\x30\x07",
        "grammar": b"\x02\x05\x00\x06\x00\x00\x06python",
        "garbage": b"\x00\x00\x00Traceback (most recent call last):\n",
        "another version": b"\x01\x00\x00\x08\x07\x10\x09",
    },
    "host_frames": {
        "call and end": bytes([0, 1, 0, 0, 3, 120, 0, 0, 0]),
        "ping and pong": bytes([0, 1, 0, 64, 120, 5, 0, 0, 0]),
        "head body end": bytes([0, 1, 0, 0, 3, 120, 1, 0, 3, 4, 0, 120, 2, 0, 4]),
        "stream": bytes([0, 1, 0, 0, 11, 120, 1, 0, 0, 0, 0, 120, 2, 0, 4, 80, 120, 0, 0, 0]),
        "raw hello": b"\xff\x01\x00\x64\x1cFKIT\x01\x01" + b"\0" * 10 + b"\x04\0\0\0" + b"\0" * 4 + b"\x08\x01\x10\x01",
    },
    "worker_frames": {
        "call": bytes([1, 0, 0, 0, 0, 0, 5]) + b"hello",
        "call in parts": bytes([1, 0, 0, 0, 24, 0, 5]) + b"hello\x03" + bytes([100, 3]) + b"abc",
        "ping": bytes([1, 0, 0, 191, 7]),
        "raw": b"\x01\x00\x0fFKIT\x01\x0a" + b"\0" * 10 + b"\x02\0\0\0" + b"\0" * 4 + b"\x09\x01",
        "envelope": b"\x01\x00\x0e\x08\x01\x11\x01\x00\x00\x00\x00\x00\x00\x00\x3a\x01t\x48\x00\x6a\x06\x0a\x01a\x12\x01b",
        "stream without credit": bytes([1, 0, 0, 0, 0, 0x35, 60]) + b"s" * 60 + bytes([150, 5, 151, 30]),
    },
    "json": {
        "object": b'{"a": [1, 2.5, -3e2, true, false, null, "\\u00e9\\n"], "b": {"c": {}}}',
        "texts": b'{"path": "/x", "kind": "copied"}',
        "deep": b"[" * 33 + b"]" * 33,
        "twice": b'{"a": 1, "a": 2}',
        "surrogates": b'"\\ud83d\\ude00 \\ud800"',
        "not utf-8": b'"\xff\xc0\x80"',
        "numbers": b"[1e400, 18446744073709551616, -0.0, 1E-400]",
    },
    "manifest": {
        "empty": b"{}",
        "full": b'{"runtime": "node", "handler": "index:f", "timeout_ms": 1000, "memory_mb": 64, "cpu_weight": 200, '
                b'"cpu_max": 0.5, "pids": 32, "max_sandboxes": 4, "max_waiters": 9, "keep_alive_ms": 5000, '
                b'"provisioned": 1, "start_policy": "wait_only", "network": "loopback", "minimum_isolation": "none", '
                b'"requires_key": true, "env": {"A": "b", "C_1": "d"}, "warmup": ["x", {"payload": "eA==", '
                b'"base64": true, "content_type": "a/b"}]}',
        "too many": b'{"max_sandboxes": 10001}',
        "misspelt": b'{"time_out_ms": 3}',
        "fraction": b'{"timeout_ms": 1.5, "cpu_max": 1e-3}',
        "lifetime": b'{"max_age_ms": 60000, "max_uses": 1000000000, "ping_after_ms": "never", '
                    b'"cancel_on_disconnect": true}',
        "lifetime limits": b'{"max_age_ms": 31536000000, "max_uses": 1, "ping_after_ms": 604800000, '
                           b'"cancel_on_disconnect": false}',
        "warm-up": b'{"warmup": [{"payload": "!", "base64": true}]}',
    },
    "tar": {
        "plain.tar": archive(*files("main.py", "lib/a.py", "lib/b/c.py")),
        "gzip.tgz": archive(*files("main.py"), compress=True),
        "pax.tar": archive(*files("caf\u00e9/" + "x" * 60 + "/main.py"), fmt=tarfile.PAX_FORMAT),
        "gnu.tar": archive(*files("y" * 99 + "/z"), fmt=tarfile.GNU_FORMAT),
        "dots.tar": archive(*files("../canary", "a/../../b")),
        "absolute.tar": archive(*files("/tmp/canary")),
        "link.tar": archive(("l", b"../..", tarfile.SYMTYPE), *files("l/canary")),
        "hardlink.tar": archive(*files("a"), ("b", b"a", tarfile.LNKTYPE)),
        "device.tar": archive(("d", b"", tarfile.CHRTYPE), ("f", b"", tarfile.FIFOTYPE)),
        "bomb.tgz": archive(("zeros", b"\0" * 50000, tarfile.REGTYPE), compress=True),
        "folders.tar": archive(("a/b/c", b"", tarfile.DIRTYPE), *files("a/b/c/d")),
        "cut.tar": archive(*files("main.py"))[:700],
    },
    "tokens": {
        "bearer": b"\x04Bearer abc.def.ghi",
        "key": b"\x04fk_" + b"A" * 43,
        "claims": b'\x01{"sub":"ann","aud":"us","exp":1700000100,"iat":1700000000,"jti":"1"}',
        "header and claims": b'\x02{"alg":"HS256","typ":"JWT","kid":"k"}\n{"sub":"ann","aud":["x","us"],"exp":1.7e9}',
        "crit": b'\x02{"alg":"HS256","crit":["b64"]}\n{"sub":"ann","aud":"us","exp":1700000100}',
        "none": b'\x02{"alg":"none"}\n{"sub":"ann","aud":"us","exp":1700000100}',
        "token": b"\x00eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.AAAA",
        "base64url": b"\x03-_AZaz09",
        "time": b"\x052026-01-02T03:04:05.678Z",
        "leap second": b"\x052016-12-31T23:59:60Z",
    },
    "logs": {
        "lines": b"\x02\x20\x00\x1e\x002026-01-02T03:04:05.678Z sb-1-1 rq-2a-7 | one\n"
                 b"2026-01-02T03:04:05.679Z sb-1-1 rq-2a-7 | two\n2026-01-02T03:04:05.680Z sb-1-1 - + three",
        "request": b"\x01\xff\x00\x2a\x07\x00\x05\x00t x | \n2026-01-02T03:04:05.678Z sb-1-1 rq-2a-7 | one\n",
        "cursor": b"\x01\xff\x00\x2a\x07\x0512-3-4",
        "text": b"\x00\x00\x00caf\xc3\xa9 \\ \x1b[0m \xff \x00",
        "no newline": b"\x02\x05\x00\x00\x00" + b"x" * 100,
    },
    "http": {
        "get": request("GET /functions/f?a=1&limit=%32+x HTTP/1.1" + HOST + "\n"),
        "post": request("POST /functions/f/invocations HTTP/1.1" + HOST + "Content-Length: 5\n\nhello"),
        "chunked": request("PUT /functions/f HTTP/1.1" + HOST + "Transfer-Encoding: chunked\n\n5;x=y\nhello\n0\nT: u\n\n"),
        "web": request("POST /functions/f/web/a%2fb/../c?d HTTP/1.1" + HOST + "Content-Length: 3\n\nabc"),
        "head": request("HEAD /functions/f/web HTTP/1.1" + HOST + "\n"),
        "old": request("GET /stats HTTP/1.0\nConnection: keep-alive\n\nGET /metrics HTTP/1.0\n\n"),
        "pipelined": request(3 * ("GET /healthz HTTP/1.1" + HOST + "\n"), b"\5"),
        "early": request("POST /functions/f/web?early HTTP/1.1" + HOST + "Content-Length: 5000\n\n" + "x" * 300, b"\7"),
        "expect": request("POST /x HTTP/1.1" + HOST + "Expect: 100-continue\nContent-Length: 2\n\nhi", b"\1"),
        "two hosts": request("GET / HTTP/1.1" + HOST + "Host: i\n\n"),
        "both lengths": request("POST / HTTP/1.1" + HOST + "Content-Length: 3\nTransfer-Encoding: chunked\n\n0\n\n"),
        "gzip, chunked": request("POST / HTTP/1.1" + HOST + "Transfer-Encoding: gzip, chunked\n\n0\n\n"),
        "no content": request("DELETE /functions/f/keys HTTP/1.1" + HOST + "\nGET /x HTTP/1.1" + HOST + "\n"),
        "no path": request("OPTIONS * HTTP/1.1" + HOST + "\n"),
        "not http": b"\1\x16\x03\x01\x02\x00\x01\x00",
    },
}


def main(corpus):
    for target, seeds in SEEDS.items():
        folder = os.path.join(corpus, target)
        os.makedirs(folder, exist_ok=True)
        for name, data in seeds.items():
            with open(os.path.join(folder, "seed-" + name.replace(" ", "-").replace(",", "")), "wb") as out:
                out.write(data)


if __name__ == "__main__":
    main(sys.argv[1])
