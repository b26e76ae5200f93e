"""Causal sequences: clean touchpoints, sorted and sharded, from which every training window is cut.

Reading order: `builder.py` (touchpoints once each, in a strict order, as steps on disk), `manifest.py` (counts and
checksums of what was written).
"""
