"""The file of the policy handler in an archive: it imports the handler of the release that serves the archive."""

from serving.handlers.policy_handler import PolicyHandler


class Handler(PolicyHandler):
    """The one class that TorchServe finds in this file."""
