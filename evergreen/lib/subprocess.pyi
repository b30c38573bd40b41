from subprocess import *  # noqa: F403
