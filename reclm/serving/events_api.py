"""Add the routes by which people's events come in and items are hidden.

In: the application and the parts of the service. Out: `/v1/events` and the routes of availability.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from reclm.dataset import MAX_ID_CHARACTERS
from reclm.features.online import EPOCH, RecentEvent
from reclm.features.recent import microseconds
from reclm.serving import availability
from reclm.serving.event_log import EventsNotWrittenError
from reclm.serving.links import followed_by, link
from reclm.serving.route_access import needs
from reclm.serving.schemas import Id, Moment, Problem, Strict, is_valid_id

if TYPE_CHECKING:
    from reclm.serving.service import Service

MAX_EVENTS = 500
MAX_BODY = 262_144  # bytes: MAX_EVENTS events of usual ids
MAX_WEIGHT = 1e6
CLOCK_SKEW = timedelta(minutes=5)
EventType = Literal["impression", "click", "like", "purchase", "skip", "return"]


def _not_in_the_future(moment: datetime) -> datetime:
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the moment lies outside the calendar") from None
    if not EPOCH <= moment <= datetime.now(UTC) + CLOCK_SKEW:
        raise ValueError("use a moment since 1970 that has passed; check the unit and the clock of the sender")
    return moment


class Event(Strict):
    """Say what a user did with an item."""

    event_id: Id = Field(description="Id of the event, chosen by the sender; the same id counts once.")
    type: EventType = Field(description="`skip` and `return` are dislikes; an `impression` alone is no interaction.")
    user_id: Id = Field(description="The user.")
    item_id: Id = Field(description="The item.")
    event_ts: Annotated[Moment, AfterValidator(_not_in_the_future)] = Field(
        description="When it happened, with a time zone."
    )
    request_id: Id | None = Field(None, description="`request_id` of the answer that showed the item, where known.")
    weight: float | None = Field(
        None,
        gt=0,
        le=MAX_WEIGHT,
        allow_inf_nan=False,
        strict=True,
        description="Weight in place of its type's (data.event_weights); dislikes keep that of their type.",
    )


class EventBatch(Strict):
    """Send events, all of which are accepted or none."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "event_id": "b1946ac9-1",
                            "type": "click",
                            "user_id": "u00017",
                            "item_id": "i00012",
                            "event_ts": "2026-01-31T12:00:00Z",
                        }
                    ]
                }
            ]
        },
    )

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS, description=f"At most {MAX_EVENTS} events.")


class EventsAccepted(BaseModel):
    """Count the events that are new, those whose id came before (all of these are on the disk), and those not kept."""

    accepted: int
    duplicates: int
    erased: int = Field(description="Events of users who were erased (`reclm forget`); they are not kept.")


class Availability(Strict):
    """Say whether an item may be shown."""

    available: bool = Field(strict=True, description="false hides the item from every answer.")


class ItemAvailability(BaseModel):
    """Say whether an item is shown now."""

    item_id: str
    available: bool


class HiddenItem(BaseModel):
    """Name a hidden item and since when it is hidden."""

    item_id: str
    since: str


class HiddenItemList(BaseModel):
    """List the hidden items."""

    items: list[HiddenItem]


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes to the application."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 401, 403, 408, 413, 415, 422, 429, 500, 503)
    }

    follow_up = followed_by(202, recommend=link("recommendations", body={"user_id": "$request.body#/events/0/user_id"}))

    @app.post("/v1/events", status_code=202, responses=errors | follow_up, openapi_extra=needs("events", MAX_BODY))
    async def events(batch: EventBatch) -> EventsAccepted:
        """Take in what people did. Answered once the events are on the disk; sending them again changes nothing."""
        rows = [_row(event) for event in batch.events]
        try:
            appended = await service.events.append(rows)
        except EventsNotWrittenError as error:
            raise HTTPException(
                503, f"the events could not be written ({error}); send them again", {"retry-after": "5"}
            ) from None
        weights = service.settings.data.weight_of_event
        recent: dict[str, list[RecentEvent]] = {}
        for event in batch.events:
            if weights[event.type]:
                item = RecentEvent(event.item_id, event.type, weights[event.type], microseconds(event.event_ts))
                recent.setdefault(event.user_id, []).append(item)
        if recent:
            await service.recent.push(recent)
        return EventsAccepted(**appended._asdict())

    @app.put(
        "/v1/items/{item_id:path}/availability",
        responses=errors
        | followed_by(
            200,
            show_again=link("set_availability", item_id="$response.body#/item_id", body={"available": True}),
            details=link("item", item_id="$response.body#/item_id"),
        ),
        openapi_extra=needs("admin"),
    )
    async def set_availability(item_id: str, wanted: Availability, request: Request) -> ItemAvailability:
        """Hide an item from every answer at once, or show it again; it stays so over restarts."""
        if not is_valid_id(item_id):
            raise HTTPException(422, f"the id is not valid; use 1 to {MAX_ID_CHARACTERS} characters")
        key = request.scope.get("reclm.key")
        by = f"key {key.name}" if key else "the service, without a key"
        await asyncio.to_thread(availability.set_available, service.settings.paths, item_id, wanted.available, by)
        return ItemAvailability(item_id=item_id, available=wanted.available)

    @app.get("/v1/hidden-items", responses=errors, openapi_extra=needs("admin"))
    async def hidden_items() -> HiddenItemList:
        """List the hidden items."""
        found = await asyncio.to_thread(availability.hidden_items, service.settings.paths)
        return HiddenItemList(items=[HiddenItem(item_id=item_id, since=since) for item_id, since in found.items()])


def _row(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "event_type": event.type,
        "user_id": event.user_id,
        "item_id": event.item_id,
        "event_ts": event.event_ts.isoformat(),
        "weight": event.weight,
        "request_id": event.request_id,
    }
