//! Values that are taken apart: there and back, golden bytes, damage.

use synod_change::DecodeError;
use synod_change::nested::{self, Dimension, Nested};

#[test]
fn an_array_of_composite_values() {
    let mut row = Vec::new();
    nested::put_count(&mut row, 2);
    nested::put_part(&mut row, Some(b"a"));
    nested::put_part(&mut row, None);
    let shape = [(2, -1), (1, 5)].map(|(length, lower_bound)| Dimension { length, lower_bound });
    let mut array = nested::begin();
    nested::put_dimensions(&mut array, shape.into_iter());
    nested::put_part(&mut array, Some(&row));
    nested::put_part(&mut array, Some(b""));
    // The form may be in logs.
    crate::fixtures::fixture("nested_array_v1.bin", &array);
    assert_eq!(array, [0xC1, 1, 2, 4, 1, 2, 10, 5, 2, 2, b'a', 0, 1]);

    let mut read = Nested::whole(&array).unwrap().unwrap();
    assert_eq!(read.dimensions(), Ok((shape.to_vec(), 2)));
    let mut element = Nested::part_of(read.part().unwrap().unwrap());
    assert_eq!(element.count(), Ok(2));
    assert_eq!(element.part(), Ok(Some(&b"a"[..])));
    assert_eq!(element.part(), Ok(None));
    element.finish().unwrap();
    assert_eq!(read.part(), Ok(Some(&b""[..])));
    read.finish().unwrap();
}

#[test]
fn a_multirange() {
    let mut range = vec![nested::LOWER_INCLUSIVE | nested::UPPER_INFINITE];
    nested::put_part(&mut range, Some(b"5"));
    let mut multirange = nested::begin();
    nested::put_count(&mut multirange, 2);
    nested::put_part(&mut multirange, Some(&[nested::RANGE_EMPTY]));
    nested::put_part(&mut multirange, Some(&range));
    crate::fixtures::fixture("nested_multirange_v1.bin", &multirange);
    assert_eq!(multirange, [0xC1, 1, 2, 2, 1, 4, 18, 2, b'5']);

    let mut read = Nested::whole(&multirange).unwrap().unwrap();
    assert_eq!(read.count(), Ok(2));
    let mut empty = Nested::part_of(read.part().unwrap().unwrap());
    assert_eq!(empty.flags(), Ok(nested::RANGE_EMPTY));
    empty.finish().unwrap();
    let mut half = Nested::part_of(read.part().unwrap().unwrap());
    assert_eq!(half.flags(), Ok(nested::LOWER_INCLUSIVE | nested::UPPER_INFINITE));
    assert_eq!(half.part(), Ok(Some(&b"5"[..])));
    assert!(half.part().is_err());
    read.finish().unwrap();
}

#[test]
fn other_forms_are_told_apart() {
    for old in [
        &b"(1,a)"[..],
        b"{1}",
        b"[0:0]={1}",
        b"empty",
        b"",
        &[0, 0, 0, 1, 0, 0, 0, 0],
    ] {
        assert!(Nested::whole(old).unwrap().is_none());
    }
    let newer = Nested::whole(&[nested::MARK, 2]).unwrap_err();
    assert!(matches!(newer, DecodeError::Unknown { number: 2, .. }), "{newer:?}");
}

#[test]
fn dimensions_are_bounded_by_what_is_there() {
    let array = |shape: &[(i32, i32)]| {
        let mut bytes = Vec::new();
        let shape = shape
            .iter()
            .map(|&(length, lower_bound)| Dimension { length, lower_bound });
        nested::put_dimensions(&mut bytes, shape);
        Nested::part_of(&bytes).dimensions().is_err()
    };
    assert!(!array(&[]));
    for shape in [
        &[(1, 1)][..],
        &[(0, 1)],
        &[(-1, 1)],
        &[(2, i32::MAX)],
        &[(i32::MAX, 1); 6],
        &[(1, 1); 7],
    ] {
        assert!(array(shape), "{shape:?}");
    }
}
