"""Operators of the Hailuo provider."""
