"""Triggers of the Hailuo provider."""
