"""A real Kubernetes control plane for tests.

`make cluster` (or `python -m tests.cluster.build`) builds its programs once per machine.
"""
