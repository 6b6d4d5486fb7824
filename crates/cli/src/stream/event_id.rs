//! Which events have a name.

use synod_change::stream::{Event, EventId};

/// The name of an event that has one.
pub fn of<'a>(event: &Event<'a>) -> Option<EventId<'a>> {
    match event {
        Event::Row(place, _) | Event::Message(place, _) | Event::Ddl(place, _) => Some(place.id),
        _ => None,
    }
}
