"""The command line: a file per command, and what only commands need. Nothing of the library imports it."""
