"""`mtorl model`: `commands.py`, and `tables.py`, what they print."""
