"""The step `install-features`."""

from components.install_features.component import install_features as install_features
