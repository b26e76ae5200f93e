"""The step `build-features`."""

from components.build_features.component import build_features as build_features
