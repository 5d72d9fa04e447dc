"""Sources of instructions, a file each: settings, rules, and what reads the instructions."""
