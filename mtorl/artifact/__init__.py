"""The model artifact: a folder with everything that a server needs, protected by checksums.

In reading order: `artifact` (the files of an artifact, reading it, and its training users), `lengths` (how many steps
of a window are computed), `saving`, `explanation` (the effect of each earlier touchpoint on a forecast), `lineage` (the
origin of a published version).
"""
