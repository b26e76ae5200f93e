"""The steps of the pipelines, as KFP components, one in each folder. Their bodies only call other packages.

Reading order: `component.py` (the decorator), then the folders in the order of `README.md`.
"""
