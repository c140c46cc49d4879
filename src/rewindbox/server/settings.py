"""/v1/settings: what a client must know to decide on code as this server does. Nothing of the host is told."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from rewindbox import config
from rewindbox.server.access import Who
from rewindbox.server.bodies import LimitsBody
from rewindbox.server.problems import responses

routes = APIRouter(tags=["about"])


class HistorySettings(BaseModel):
    """What is kept of an execution, and what follows from a failure."""

    enabled: bool = Field(description="Executions are recorded, and can be undone.")
    snapshot_on_execution: bool = Field(description="A snapshot before each execution.")
    snapshot_on_failure: bool = Field(description="A snapshot after each that fails.")
    auto_rollback_on_failure: bool = Field(description="One that fails is undone, where it does not say otherwise.")
    max_history_entries: int = Field(description="Of each vm, the output of so many of the newest is kept.")
    persist_history: bool = Field(description="The record outlives the server.")


class SettingsBody(BaseModel):
    """The settings of this server that concern executions; docs/configuration.md has their meaning."""

    max_text_chars: int = Field(description="Longest answer in which code is looked for, in characters.")
    execution_timeout_ms: int = Field(description="Wall clock of an execution, in ms, times its language's multiplier.")
    allowed_languages: list[str] = Field(description="Those that may run.")
    languages: dict[str, dict[str, Any]] = Field(description="Where the table of languages is not as it is shipped.")
    auto_provision: bool = Field(description="A vm of a new name is made.")
    code_validation: bool = Field(description="Code is looked at before it runs.")
    max_code_length: int = Field(description="Longest code, in characters.")
    history: HistorySettings = Field(description="What is kept.")
    limits: LimitsBody = Field(description="What an execution may consume, and the most that one may ask for.")


@routes.get("/v1/settings", responses=responses())
async def settings(who: Who) -> SettingsBody:
    """The settings that concern executions."""
    found = config.as_dict(who.service.box.settings)
    return SettingsBody.model_validate({name: found[name] for name in config.SHARED})
