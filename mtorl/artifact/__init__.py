"""The model artifact: a folder with everything that a server needs, protected by checksums.

In reading order: `artifact` (what lies in it, reading it, and which users it was trained on), `lengths` (how many steps
of a window are computed), `saving`, `explanation` (what each earlier touchpoint adds to a forecast), `lineage` (where a
published one comes from).
"""
