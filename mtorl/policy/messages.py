"""Defines error messages about budgets and their pacing."""

from mtorl.runtime.message import Words

NEEDS_END = Words("needs-end", "a budget with period {period} needs start and end, or opportunities")
HAS_END = Words("has-end", "a budget with period {period} already has an end: remove start, end and opportunities")
