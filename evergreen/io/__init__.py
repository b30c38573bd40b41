"""Input and output for tasks: files, processes, names, streams."""
