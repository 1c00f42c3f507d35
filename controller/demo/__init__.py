"""`understudy demo`: the whole loop on this machine, with nothing in it scripted.

Three real models of hand-written digits are trained and served, some ten thousand users ask them
through the router, and tell a few seconds later whether the answer was right. Two versions are
offered; what becomes of them is for the policy to decide. The demo only watches, and checks at the
end that every request and every reward was counted.

    models     trains the three versions            (the only place that knows scikit-learn)
    server     serves one version over HTTP         (a process of its own)
    users      asks, waits, rewards, counts         (the only place that draws random numbers)
    pool       the users' HTTP connections
    control    talks to the controller's API
    tally      the counts, and whether they agree with the controller's
    children   child processes that never outlive the demo; `leash` ties them to it
    terminal   what people see
    run        the order of it all

The demo knows the controller by its contracts only: the command `serve`, its ready line and its
HTTP API. It is a user like any other, so what works here works for everybody.
"""
