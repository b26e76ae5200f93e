"""The tables of own decisions: `table.py`."""
