"""``python -m squeezecam``."""

from squeezecam._entry import main

main()
