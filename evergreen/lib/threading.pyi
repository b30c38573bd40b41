from threading import *  # noqa: F403
