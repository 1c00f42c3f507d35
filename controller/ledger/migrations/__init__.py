"""How the ledger's schema came to be: one Alembic revision per change, oldest first.

A revision is never edited once it was released; it spells its tables out and imports nothing from
`ledger.tables`, which describe the present.
"""
