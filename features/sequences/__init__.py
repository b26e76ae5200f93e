"""Sorts the touchpoints of each user by time and writes them in shards, from which training cuts its windows.

Reading order: `builder.py` (removes duplicates, sorts the touchpoints and writes them), `manifest.py` (counts and
checksums of the written files).
"""
