"""The step `train-challenger`."""

from components.train_challenger.component import train_challenger as train_challenger
