"""Faults on purpose: the rules, what they make of answers, and the middleware that applies them."""
