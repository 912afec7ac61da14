"""What the operating system is asked for: threads, processes, files that appear whole."""
