"""Understudy: splits live traffic among models, joins late rewards, promotes or rolls back."""
