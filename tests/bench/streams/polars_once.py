"""Polars, one shot, one thread: the bound. FILE [--narrow]; narrow reads the needed columns only.

Reads the whole file into memory, joins, groups. It keeps nothing, cannot go on where it was, and
knows every reward beforehand.
"""

import json
import os
import sys

os.environ["POLARS_MAX_THREADS"] = "1"
from time import perf_counter, process_time

import polars as pl

GRACE_S, WINDOW_S = 5.0, 20.0
ALL = {
    "type": pl.String,
    "time": pl.Float64,
    "model": pl.String,
    "request_id": pl.String,
    "unit": pl.String,
    "arm": pl.String,
    "epoch": pl.Int64,
    "status": pl.Int64,
    "latency_ms": pl.Float64,
    "id": pl.String,
    "name": pl.String,
    "value": pl.Float64,
}
NEEDED = ("type", "time", "request_id", "arm", "value")

schema = {name: ALL[name] for name in NEEDED} if "--narrow" in sys.argv else ALL
began, began_cpu = perf_counter(), process_time()
events = pl.read_ndjson(sys.argv[1], schema=schema)
exposures = events.filter(pl.col("type") == "exposure").select("request_id", "arm", "time")
rewards = events.filter(pl.col("type") == "reward").select("request_id", "value", at="time")
joined = exposures.join(rewards, on="request_id", how="left")
inside = pl.col("at").is_between(pl.col("time") - GRACE_S, pl.col("time") + WINDOW_S)
value = pl.when(inside).then(pl.col("value")).otherwise(0.0)
found = (
    joined.with_columns(value=value).group_by("arm").agg(n=pl.len(), value=pl.col("value").sum())
)
wall_s, cpu_s = perf_counter() - began, process_time() - began_cpu
arms = {arm: [n, v] for arm, n, v in found.iter_rows()}
print(json.dumps({"events": events.height, "wall_s": wall_s, "cpu_s": cpu_s, "arms": arms}))
