"""One decorator for every component, so that the image and the install policy are set in one place.

The image holds the project itself; nothing is installed when a step starts (``packages_to_install=[]``), and the body
of a component only calls into the rooms below. The reference is part of the cache key on a cluster: deploy a digest.
"""

import os

from kfp import dsl

IMAGE = os.environ.get("MTORL_IMAGE", "ghcr.io/mtorl-kubeflow/train:0.1.0-python3.11")

component = dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
