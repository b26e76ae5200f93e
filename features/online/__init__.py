"""Changes online features between two batch jobs: histories of users, written as events arrive.

Reading order: `history.py` (changes, merge), `open_history.py`, `sqlite_store.py`, `redis_store.py`; then `feed.py` and
`receiver.py`, which turn events of the decision log into touchpoints. `written.py` records the source of the store's
content.
"""
