"""Hooks of the Hailuo provider."""
