"""The errors of the sandbox's settings."""

from __future__ import annotations


class SettingError(ValueError):
    """A setting of the sandbox is out of its range.

    :param name: the parameter.
    :param requirement: what it must be.
    """

    def __init__(self, name: str, requirement: str) -> None:
        super().__init__(f"{name} {requirement}")
        self.name = name
        self.requirement = requirement
