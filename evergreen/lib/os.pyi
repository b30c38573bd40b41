from os import *  # noqa: F403
