"""The commands of docs/backup.md, while events are appended."""

import shutil
import subprocess
import threading
from contextlib import closing
from pathlib import Path

from controller.stream import Mark, open_stream
from tests.stores.redis import Redis


def test_a_copy_made_while_events_are_appended_is_a_whole_log_that_goes_on(
    redis: Redis, tmp_path: Path
) -> None:
    program = shutil.which("redis-cli")
    assert program
    ended = threading.Event()
    url = redis.address(prefix="saved")

    def write() -> None:
        with closing(open_stream(url)) as stream:
            number = 0
            while not ended.is_set():
                number += 1
                lines = {"a": [b"%d" % number], "b": [b"%d" % number] * 2}
                stream.append(lines, mark=Mark("writer", str(number)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with closing(open_stream(url)) as stream:
            while not stream.mark("writer"):
                pass
        copy = tmp_path / "dump.rdb"
        subprocess.run([program, "-p", str(redis.port), "--rdb", copy], check=True)
    finally:
        ended.set()
        writer.join()
    with Redis(dir=tmp_path, appendonly="no") as restored:
        subprocess.run(
            [program, "-p", str(restored.port), "CONFIG", "SET", "appendonly", "yes"], check=True
        )
        again = restored.address(prefix="saved")
        with closing(open_stream(again)) as stream:
            marked = int(stream.mark("writer") or 0)
            a = [line for b in stream.read("a", 0) for line in b.lines]
            b = [line for b in stream.read("b", 0) for line in b.lines]
            assert a == [b"%d" % n for n in range(1, marked + 1)]
            assert b == [line for line in a for _ in range(2)]
            assert stream.append({"a": [b"on"]}) == {"a": marked}
        assert marked > 0
