"""KFP components, one per folder, with thin bodies that call other rooms.

Reading order: `component.py` (the decorator), then the folders in the order of `README.md`.
"""
