"""The shell around the core: read, step, write down, act, read back. The only reader of the clock.

`fold` keeps one model's state in step with its log and its ledger; `wheel` turns all of them and
moves the router; `backend` is what the API asks. None of them decides anything.
"""
