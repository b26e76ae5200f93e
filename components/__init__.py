"""KFP components, a folder each: a thin body that calls a room below.

Reading order: `component.py` (the decorator), then the folders in the order of `README.md`.
"""
