from time import *  # noqa: F403
