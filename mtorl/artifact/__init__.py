"""Reads and writes model artifacts: folders with everything that a server needs for decisions, with checksums.

The files in reading order:

    artifact      the files of an artifact, and functions that read them
    lengths       limits how many steps of a window are computed
    saving        writes an artifact
    explanation   the effect of each earlier touchpoint on a forecast
    lineage       the origin of a published model
"""
