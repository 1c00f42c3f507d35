"""PySpark Structured Streaming: a left outer stream-stream join with watermarks, checkpointed.

FOLDER (of files, in order) WORK FILES_PER_TRIGGER PROVIDER(hdfs|rocksdb)

The documented way: both streams with a watermark, an equality and an interval as the condition,
file source and checkpoint on disk, one core, one shuffle partition. Every trigger commits its
state; rows of the join reach the sink at least once.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as sql

folder, work, files, provider = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
SCHEMA = (
    "type string, time double, model string, request_id string, unit string, arm string, "
    "epoch long, status long, latency_ms double, id string, name string, value double"
)
ROCKSDB = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"

builder = (
    SparkSession.builder.master("local[1]")
    .config("spark.driver.memory", "4g")
    .config("spark.sql.shuffle.partitions", "1")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.local.dir", str(work))
)
if provider == "rocksdb":
    builder = builder.config("spark.sql.streaming.stateStore.providerClass", ROCKSDB)
spark = builder.getOrCreate()
spark.sparkContext.setLogLevel("ERROR")


def java_s() -> float:
    """Seconds of the processor that the JVM has used."""
    pid = spark._jvm.java.lang.ProcessHandle.current().pid()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


events = (
    spark.readStream.schema(SCHEMA)
    .option("maxFilesPerTrigger", files)
    .json(str(folder))
    .withColumn("ts", sql.timestamp_seconds("time"))
)
exposures = (
    events.where("type = 'exposure'")
    .select("request_id", "arm", sql.col("ts").alias("asked"))
    .withWatermark("asked", "5 seconds")
)
rewards = (
    events.where("type = 'reward'")
    .select(sql.col("request_id").alias("rid"), "value", sql.col("ts").alias("told"))
    .withWatermark("told", "5 seconds")
)
joined = exposures.join(
    rewards,
    sql.expr(
        "request_id = rid and told >= asked - interval 5 seconds "
        "and told <= asked + interval 20 seconds"
    ),
    "leftOuter",
)
count, value = Counter(), Counter()


def add(batch, _number) -> None:
    for row in (
        batch.groupBy("arm").agg(sql.count("*").alias("n"), sql.sum("value").alias("v")).collect()
    ):
        count[row["arm"]] += row["n"]
        value[row["arm"]] += row["v"] or 0.0


began, began_cpu = time.perf_counter(), java_s() + time.process_time()
query = (
    joined.writeStream.foreachBatch(add)
    .option("checkpointLocation", str(work / "checkpoint"))
    .trigger(availableNow=True)
    .start()
)
query.awaitTermination()
wall_s, cpu_s = time.perf_counter() - began, java_s() + time.process_time() - began_cpu
read = sum(progress["numInputRows"] for progress in query.recentProgress)
arms = {arm: [count[arm], value[arm]] for arm in count}
print(json.dumps({"events": read, "wall_s": wall_s, "cpu_s": cpu_s, "arms": arms}))
spark.stop()
