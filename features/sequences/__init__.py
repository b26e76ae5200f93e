"""Causal sequences: clean touchpoints, sorted and sharded, from which training windows are cut.

Reading order: `builder.py` (removes duplicate touchpoints, orders them strictly and writes them as steps),
`manifest.py` (counts and checksums of the written steps).
"""
