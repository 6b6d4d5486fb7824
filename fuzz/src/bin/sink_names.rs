//! URLs of sinks, templates of subjects and keys, positions in the WAL. Covers
//! crates/sinks/src/url.rs, crates/sinks/src/template.rs, crates/sinks/src/lsn.rs.
#![no_main]

use synod_change::stream::{Change, Column, Event, EventId, Place, Table};
use synod_change::{Row, Value};
use synod_sinks::lsn;
use synod_sinks::template::Template;
use synod_sinks::url::{self, Query};

synod_fuzz::target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = url::decoded(text);
    if let Ok(url) = url::parse(text) {
        let _ = (url::host(&url), Query::of(&url, &["key", "subject"]));
    }
    if let Some(position) = lsn::parse(text) {
        assert_eq!(lsn::parse(&lsn::text(position)), Some(position));
    }
    let column = Column {
        name: data.to_vec(),
        in_primary_key: true,
        ..Column::default()
    };
    let table = Table {
        schema: data.to_vec(),
        name: b"t".to_vec(),
        columns: vec![column],
        ..Table::default()
    };
    let values = [Value::Text(data)];
    let new = Row::new(&values);
    let id = EventId::Commit { lsn: 1, ordinal: 1 };
    let event = Event::Row(Place { id, lsn: 1, xid: 1 }, Change::Insert { table: &table, new });
    for rows in [false, true] {
        if let Ok(template) = Template::parse(text, rows) {
            let _ = template.fill(&event, str::to_owned);
            let _ = template.fill_row(&event, &table, new);
            let _ = template.glob(&table);
        }
    }
});
