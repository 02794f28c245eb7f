"""Links of tasks in the UI."""
