"""Files: how they are written, whole or not at all, and texts that can be shown anywhere. Any room may use it."""
