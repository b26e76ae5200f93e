"""What `pacing.py` runs: a ledger in memory (`ledger`), days of a market (`days`), and their table (`table`)."""
