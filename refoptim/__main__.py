"""``python -m refoptim`` is the command ``refoptim``."""

from .commands.main import main

main(prog_name="refoptim")
