"""The commands of docs/backup.md, while decisions are written."""

import shlex
import subprocess
import threading
from contextlib import closing
from pathlib import Path

from controller.ledger import open_ledger
from tests.processes import until
from tests.stores.postgres import program

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"


def run(name, url, dump):
    """The line of the page that begins with this program."""
    (line,) = (text for text in PAGE.read_text().splitlines() if text.startswith(f"    {name} "))
    text = line.replace("$LEDGER", url.replace("+psycopg", "")).replace("/backup/ledger.dump", dump)
    _, *arguments = shlex.split(text)
    subprocess.run([program(name), *arguments], check=True)


def test_a_dump_made_while_decisions_are_written_is_a_whole_ledger(
    postgres, postgres_template, decide, split, tmp_path
):
    url = postgres.database(postgres_template)
    other = postgres.database(postgres_template)
    dump = str(tmp_path / "ledger.dump")
    ended = threading.Event()

    def write(ledger):
        number = 0
        while not ended.is_set():
            number += 1
            snapshot = (10 * number, b"%d" % number)
            ledger.commit(
                "digits", decisions=[(decide(number), [split(number)])], snapshot=snapshot
            )

    with closing(open_ledger(url, clock=lambda: 1.0)) as ledger:
        ledger.begin_term("a")
        writer = threading.Thread(target=write, args=(ledger,))
        writer.start()
        try:
            until("there is something", lambda: ledger.decision("digits", 10))
            run("pg_dump", url, dump)
        finally:
            ended.set()
            writer.join()
        last = ledger.last_decision("digits").number
    run("pg_restore", other, dump)
    with closing(open_ledger(other, clock=lambda: 1.0)) as restored:
        numbers = [d.number for d in restored.decisions("digits", limit=10_000)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) <= last
        assert restored.verify_chain("digits") is None
        assert restored.newest_term().holder == "a"
        assert restored.snapshot("digits") == (10 * len(numbers), b"%d" % len(numbers))
        restored.commit("digits", decisions=[(decide(len(numbers) + 1), [])])
