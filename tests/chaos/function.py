"""function.cc in Python; it does not know its attempt and says 0."""
import os
import socket
import time
import zlib

stamp = os.environ["CHAOS_STAMP"]
driver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
driver.connect(os.environ["CHAOS_SOCKET"].replace("@", "\0", 1))


def handler(payload, context):
    call, work = bytes(payload[:64]).split()[:2]
    driver.send(b"%s 0 %s" % (call, stamp.encode()))
    if int(work):
        time.sleep(int(work) / 1e6)
    return "%s %s %08x" % (call.decode(), stamp, zlib.crc32(payload))
