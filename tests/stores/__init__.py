"""Private instances of the services that log and ledger can live in, as child processes.

`make services` installs their programs: from the Debian packages `postgresql` and `redis-server`,
and a Kafka from Maven Central, for which Java and Maven come from Debian where they are absent.
"""
