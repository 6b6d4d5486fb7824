//! Made-up events as a server could have made them: values that are of their columns' classes, texts in one encoding.

use synod_change::stream::{Encoding, Environment, Table, TypeClass};

use super::made::{OwnedEvent, OwnedValue, What};

/// An environment that prints times as a number.
pub fn environment(encoding: Encoding) -> Environment {
    Environment {
        time: |time, out| out.extend_from_slice(format!("@{time}").as_bytes()),
        encoding,
        text_encoding: "UTF8",
        setting: |name| format!("{name}'s value").into_bytes(),
    }
}

fn text(bytes: &mut Vec<u8>, encoding: Encoding) {
    if encoding != Encoding::Unknown {
        *bytes = String::from_utf8_lossy(bytes).into_owned().into_bytes();
    }
    bytes.retain(|byte| *byte != 0);
}

fn value(value: &mut OwnedValue, class: TypeClass, encoding: Encoding) {
    let bytes = match value {
        OwnedValue::Null | OwnedValue::Same => return,
        OwnedValue::Text(bytes) | OwnedValue::Binary(bytes) => bytes,
    };
    let pick = |all: &[&str]| all[bytes.len() % all.len()].as_bytes().to_vec();
    let mut typed = match class {
        TypeClass::Integer => pick(&["0", "-1", "9223372036854775807"]),
        TypeClass::Number => pick(&["NaN", "Infinity", "-Infinity", "1.50", "-1e-07", "1e+20", "-0"]),
        TypeClass::Boolean => pick(&["t", "f"]),
        TypeClass::Bits => pick(&["", "0", "0110"]),
        TypeClass::Json => pick(&["{\"a\": \"\\n\\u00e9\"}", "null", "\"\""]),
        TypeClass::Bytes => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("\\x{digits}").into_bytes()
        }
        TypeClass::Text => std::mem::take(bytes),
    };
    text(&mut typed, encoding);
    *value = OwnedValue::Text(typed);
}

fn row(row: &mut [OwnedValue], table: &Table, encoding: Encoding) {
    for (cell, column) in row.iter_mut().zip(&table.columns) {
        value(cell, column.class, encoding);
    }
}

/// Makes them so.
pub fn clean(tables: &mut [Table], events: &mut [OwnedEvent], encoding: Encoding) {
    for table in &mut *tables {
        text(&mut table.schema, encoding);
        text(&mut table.name, encoding);
        for column in &mut table.columns {
            let names = [
                &mut column.name,
                &mut column.type_name,
                &mut column.full_type_name,
                &mut column.base_type_name,
                &mut column.full_base_type_name,
            ];
            for name in names.into_iter().chain(&mut column.default) {
                text(name, encoding);
            }
        }
    }
    for event in events {
        for bytes in [&mut event.of.origin, &mut event.of.gid].into_iter().flatten() {
            text(bytes, encoding);
        }
        event.place.id.1 = "6d1f1c7e-0000-4000-8000-00000000000a".into();
        event.of.csn = event.of.csn.as_ref().map(|(_, csn)| (event.place.id.1.clone(), *csn));
        event.of.context = event.of.context.as_ref().map(|_| "{\"who\": \"Ärger\"}".into());
        match &mut event.what {
            What::Insert(table, new) | What::Delete(table, Some(new)) | What::Update(table, None, new) => {
                row(new, &tables[*table], encoding);
            }
            What::Update(table, Some(old), new) => {
                row(old, &tables[*table], encoding);
                row(new, &tables[*table], encoding);
            }
            What::Ddl(texts, _) => texts.iter_mut().for_each(|bytes| text(bytes, encoding)),
            What::Context(context) => *context = "{\"who\": \"Ärger 😀\"}".into(),
            What::Message(_, prefix, _) => text(prefix, encoding),
            _ => {}
        }
    }
}
