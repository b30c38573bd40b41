from queue import *  # noqa: F403

from evergreen.queue import ShutDown as ShutDown
