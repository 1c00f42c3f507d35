"""A writer to be killed: appends without end and says after each append what it was told.

Append number `n` puts `1 + n % 7` events into log `a`, twice as many into `b`, and the mark `n`.
Every tenth is large, so that a kill is likely to fall into one. Says `n start_a start_b`.
"""

import os
import sys

from controller.stream import Mark, open_stream

FILLER = bytes(33 + i * 7919 % 90 for i in range(180)).replace(b'"', b"-").replace(b"\\", b"-")


def lines(number: int, per: int) -> list[bytes]:
    count = per * (2_000 if number % 10 == 0 else 1 + number % 7)
    return [b'{"n":%d,"i":%d,"of":%d,"x":"%s"}' % (number, i, count, FILLER) for i in range(count)]


def main(url: str) -> None:
    stream = open_stream(url)
    number = int(stream.mark("appender") or 0)
    while True:
        number += 1
        mark = Mark("appender", str(number))
        starts = stream.append({"a": lines(number, 1), "b": lines(number, 2)}, mark=mark)
        os.write(1, b"%d %d %d\n" % (number, starts["a"], starts["b"]))


if __name__ == "__main__":
    main(sys.argv[1])
