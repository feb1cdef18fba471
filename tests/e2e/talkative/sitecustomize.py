"""Put on a process's path, this makes every library in it log all that it can, into the process's own log."""

import faulthandler
import logging

logging.basicConfig(level=1)
faulthandler.enable()
