"""``python -m hub_server FOLDER [PORT]`` serves a Hub until it is stopped, and prints its address first."""

import sys
from pathlib import Path

from hub_server.serving import serve_forever

serve_forever(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
