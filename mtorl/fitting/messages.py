"""Defines error messages of hyper-parameter searches and training settings."""

from mtorl.runtime.message import Words

NO_TRIAL = Words("no-trial", "no trial was completed: all diverged. Check for extreme inputs (mtorl data validate)")
OTHER_SEARCH = Words("other-search", "{folder}: has a search with another {what}. Use another folder or delete it")
UNKNOWN_SETTING = Words("unknown-setting", "settings: unknown name {name}. Known: {known}")
