"""The local agent: inference on this machine, behind HTTP, in a supervised worker process."""
