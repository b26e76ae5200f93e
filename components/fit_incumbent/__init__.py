"""The step `fit-incumbent`."""

from components.fit_incumbent.component import fit_incumbent as fit_incumbent
