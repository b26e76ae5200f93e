"""Proposes a description of an undescribed file from its column names and values.

Read `dialect.py` (how the file is written), `facts.py` (what its columns hold), `roles.py` (which column is what), then
`second_file.py` (outcomes that came later).
"""
