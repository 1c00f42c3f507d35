"""One of several writers of the same logs: appends without end, says what it was told each time.

Append number `n` puts `1 + n % 3` lines `NAME n i` into the logs a and b, with the mark NAME. Says
`n start_a start_b`; of an append that failed nothing.
"""

import os
import sys
from contextlib import suppress

from controller.errors import Retryable
from controller.stream import Mark, open_stream


def lines(name: str, number: int) -> list[bytes]:
    return [f"{name} {number} {i}".encode() for i in range(1 + number % 3)]


def main(url: str, name: str) -> None:
    stream = open_stream(url)
    number = 0
    while True:
        number += 1
        own = lines(name, number)
        with suppress(Retryable):
            starts = stream.append({"a": own, "b": own}, mark=Mark(name, str(number)))
            os.write(1, b"%d %d %d\n" % (number, starts["a"], starts["b"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
