"""Changes online features between batch jobs: adds to users' histories as events arrive.

Reading order: `history.py` (changes, merge), `open_history.py`, `sqlite_store.py`, `redis_store.py`; then `feed.py` and
`receiver.py`, which turn events of the decision log into touchpoints. `written.py` records what the store was last
written from.
"""
