"""The Feast feature repository: `feast apply` works in this folder."""
