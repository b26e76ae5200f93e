"""The step `due`."""

from components.due.component import due as due
