"""Everything started for real and broken on purpose; afterwards the counts must be exact.

    python -m tests.chaos --minutes 10 --rate 2000 --seed 1 --stream redis --ledger postgresql

One process owns a scene of its own: namespaces of the network, of mounts and of processes, which
end with it, whatever happens (`hosts`). In it run two routers with `understudy ship` beside each, a
controller, its stores, model servers (`services`, `stores`) and users (`users`). `faults` draws
from a seed what is killed, stopped, cut off or left without disk, and when. `keeper` copies the
raw access logs while they are written, because `ship` deletes what it has shipped. At the end
`recount` joins rewards to exposures once more, in dicts, and `verdict` compares.

What is proven is equality, to the event:

    exposures in the event log          = lines of the raw access logs
    rewards in the event log            = rewards that were acknowledged with 202
    counts in /v1/models/M/arms         = those of `recount`, from the log and from the raw files
    decisions                           = those of `replay` and of `ledger --verify`

What a user saw and no access log ever had is lost by the router's death, before anything of ours
could know of it: it is counted from the users' own records, and told apart from all of the above.
"""
