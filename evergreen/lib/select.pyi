from select import *  # noqa: F403
