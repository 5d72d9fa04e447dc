"""Families of checks, a file each; a new one is found by its place here."""
