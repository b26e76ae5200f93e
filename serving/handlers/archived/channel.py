"""The file of the channel handler in an archive: it imports the handler of the release that serves the archive."""

from serving.handlers.channel_handler import ChannelHandler


class Handler(ChannelHandler):
    """The one class that TorchServe finds in this file."""
