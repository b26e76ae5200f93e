"""The file of the budget handler in an archive: it imports the handler of the release that serves the archive."""

from serving.handlers.budget_handler import BudgetHandler


class Handler(BudgetHandler):
    """The one class that TorchServe finds in this file."""
