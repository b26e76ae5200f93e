"""Causal sequences: clean touchpoints, sorted and sharded, from which every training window is cut.

Reading order: `touchpoints.py` (once each, in a strict order), `builder.py` (steps on disk), `manifest.py` (counts and
checksums of what was written).
"""
