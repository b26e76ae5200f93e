"""Feast repository and the causal sequence builder."""
