"""Callers of the engine beside the live loop: the same fold over events that are already there."""
