"""Policies that MTORL is compared with, one file each."""
