"""Kinds of evaluations, a module each: settings, rules, and what is measured."""
