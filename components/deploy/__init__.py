"""The step `deploy`."""

from components.deploy.component import deploy as deploy
