"""What `mtorl model` does: `place` (what is known around a registry), `known` (versions for people), `servers`."""
