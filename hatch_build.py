"""Build hook: a wheel carries the workflow inside the package; an editable install reads it in the checkout.

A static `force-include` table would copy it in both cases, and the copy beside an editable install would go stale.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WorkflowHook(BuildHookInterface):
    """Puts Snakefile, stages and configs below `pipeline/workflow/` of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the workflow's files; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"].update(
                {name: f"pipeline/workflow/{name}" for name in ("Snakefile", "stages", "configs")}
            )
