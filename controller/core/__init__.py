"""What Understudy knows, and nothing else: no I/O, no clock, no global randomness, no logging."""
