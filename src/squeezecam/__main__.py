"""``python -m squeezecam``."""

from squeezecam.cli import main

main()
