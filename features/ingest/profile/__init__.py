"""What a file that nobody described seems to be, by its names and its values.

Read `dialect.py` (how the file is written), `facts.py` (what its columns hold), `roles.py` (which column is what), then
`second_file.py` (outcomes that came later).
"""
