"""`mtorl monitor`: `commands.py`, and `screen.py`, what they print."""
