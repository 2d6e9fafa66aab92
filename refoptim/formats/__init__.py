"""Files: how they are written, whole or not at all. Any room may use it; it knows nothing of what it writes."""
