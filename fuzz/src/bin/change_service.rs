//! Service records: appends, trims, ranges of sequences. Covers crates/change/src/service.rs.
#![no_main]

use synod_change::Service;

synod_fuzz::target!(|data: &[u8]| {
    let Ok(service) = Service::decode(data) else { return };
    let mut encoded = Vec::new();
    service.encode(&mut encoded);
    assert_eq!(encoded, data, "one service, two encodings");
    if let Service::Grant(grant) = service {
        for granted in [
            None,
            Some(0),
            Some(i64::MIN),
            Some(i64::MAX),
            Some(grant.first),
            Some(grant.greatest),
        ] {
            if let Some((first, last)) = grant.range(granted) {
                for value in [first, last] {
                    assert!(
                        (grant.least..=grant.greatest).contains(&value),
                        "{grant:?} after {granted:?}: {value}"
                    );
                }
            }
        }
    }
});
