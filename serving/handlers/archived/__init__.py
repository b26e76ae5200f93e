"""What an archive holds of the handlers, a few lines that import one: a model is published once and outlives releases.

A published archive is served by later releases, too. The names that these files import must therefore never change.
"""
