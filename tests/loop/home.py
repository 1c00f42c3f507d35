"""A state folder with a log and a ledger, for folds that begin anew."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine, text

from controller.core.policy import parse
from controller.core.record import canonical, decision_document
from controller.ledger import Limits, open_ledger
from controller.loop.fold import Fold, PolicySource
from controller.stream import open_stream

DOCUMENT = """
apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: m}
spec:
  route: {prefix: /m/}
  champion: {version: v1}
  reward: {event: click, window: 10s, grace: 5s}
  guardrails: [{metric: error_rate, max_increase: 1%}]
  gates: {cooldown: 0s}
  stages:
    - canary: {steps: [10%, 50%], min_duration: 10s, min_outcomes: 20, margin: 5%, budget: 100%}
"""


class Home:
    """A state folder with a log and a ledger, opened anew by each `fold`."""

    def __init__(self, folder: Path, document: str, limits: Limits | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.database = f"sqlite:///{folder}/ledger.db"
        self.stream = open_stream(f"sqlite:///{folder}/events.db")
        self.ledger = open_ledger(self.database, clock=lambda: 0.0, limits=limits or Limits())
        self.source = PolicySource(parse(document, "m.yaml"), document)

    def close(self) -> None:
        self.stream.close()
        self.ledger.close()

    def fold(self) -> Fold:
        return Fold(self.source, self.stream, self.ledger)

    def append(self, lines: list[bytes]) -> None:
        self.stream.append({"m": lines})

    def sql(self, statement: str, **values: object) -> list[tuple[object, ...]]:
        engine = create_engine(self.database)
        with engine.begin() as connection:
            found = connection.execute(text(statement), values)
            rows = [tuple(row) for row in found] if found.returns_rows else []
        engine.dispose()
        return rows

    @property
    def snapshots(self) -> list[int]:
        return [int(row[0]) for row in self.sql("select offset from snapshots order by offset")]

    @property
    def written(self) -> list[str]:
        return [canonical(decision_document(d)) for d in self.ledger.decisions("m")]
