"""Changes online features between two batch jobs: histories of users, written as events arrive.

Reading order: `history.py` (append, patch, merge), `open_history.py`, `sqlite_history.py`, `redis_history.py` with the
`.lua` scripts; then `journal.py`, `feed.py` and `receiver.py`, which turn events of the decision log into touchpoints.
`written.py` records the source of the store's content; `forget.py` removes users.
"""
