"""The step `verdict`."""

from components.verdict.component import verdict as verdict
