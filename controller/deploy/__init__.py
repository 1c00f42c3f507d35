"""What a cluster is like, and what is done to it: discovery, targets, and the one client."""
