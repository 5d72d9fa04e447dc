"""Host memory: keep what was freed, because asking the operating system for it again is slow."""
