"""The model artifact: a folder with everything that a server needs, protected by checksums.

In reading order: `artifact` (what lies in it, and reading it), `lengths` (how many steps of a window are computed),
`saving`, `explanation` (what each earlier touchpoint adds to a forecast), `training_users` (which models were trained
on whom), `lineage` (where a published one comes from).
"""
