"""Updates online features between batch jobs: adds touchpoints to users' histories as events arrive.

Reading order: `history.py` (changes of a history), `open_history.py`, `sqlite_store.py`, `redis_store.py`; then
`feed.py` and `receiver.py`, which turn events from the routers into touchpoints. `written.py` records when, and from
which log, the store was last written.
"""
