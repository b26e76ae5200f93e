"""Helpers that know nothing of the domain: each file stands alone.

`files` (atomic replacement), `validation` (strict models and their error messages), `progress` (reports of a step),
`threads` (one thread for small networks), `hardware` (what a figure was measured on).
"""
