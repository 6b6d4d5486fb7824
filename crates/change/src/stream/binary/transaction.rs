//! A [`Transaction`] as it stands in the frames that begin and end one: flags for what is there, then what is there.

use crate::DecodeError;
use crate::stream::Transaction;
use crate::wire::{Decoder, put_bytes, put_signed, put_varint};

const COMMIT_LSN: u8 = 1;
const END_LSN: u8 = 2;
const COMMIT_TIME: u8 = 4;
const ORIGIN: u8 = 8;
const ORIGIN_NUMBERS: u8 = 16;
const CSN: u8 = 32;
const GID: u8 = 64;
const CONTEXT: u8 = 128;

pub(super) fn put(out: &mut Vec<u8>, transaction: &Transaction<'_>) {
    let numbers = transaction.origin_id != 0 || transaction.origin_lsn != 0;
    let flag = |there: bool, flag: u8| if there { flag } else { 0 };
    out.push(
        flag(transaction.commit_lsn.is_some(), COMMIT_LSN)
            | flag(transaction.end_lsn.is_some(), END_LSN)
            | flag(transaction.commit_time_us.is_some(), COMMIT_TIME)
            | flag(transaction.origin.is_some(), ORIGIN)
            | flag(numbers, ORIGIN_NUMBERS)
            | flag(transaction.csn.is_some(), CSN)
            | flag(transaction.gid.is_some(), GID)
            | flag(transaction.context.is_some(), CONTEXT),
    );
    put_varint(out, transaction.xid.into());
    if let Some(lsn) = transaction.commit_lsn {
        put_varint(out, lsn);
    }
    if let Some(lsn) = transaction.end_lsn {
        put_varint(out, lsn);
    }
    if let Some(time) = transaction.commit_time_us {
        put_signed(out, time);
    }
    if let Some(origin) = transaction.origin {
        put_bytes(out, origin);
    }
    if numbers {
        put_varint(out, transaction.origin_id.into());
        put_varint(out, transaction.origin_lsn);
    }
    if let Some((group, csn)) = transaction.csn {
        put_bytes(out, group.as_bytes());
        put_varint(out, csn);
        put_varint(
            out,
            transaction
                .previous_csn
                .map_or(0, |previous| previous.saturating_add(1)),
        );
    }
    for text in [transaction.gid, transaction.context].into_iter().flatten() {
        put_bytes(out, text);
    }
}

pub(super) fn read<'a>(decoder: &mut Decoder<'a>) -> Result<Transaction<'a>, DecodeError> {
    let flags = decoder.u8()?;
    let mut transaction = Transaction {
        xid: decoder.varint_u32()?,
        ..Transaction::default()
    };
    if flags & COMMIT_LSN != 0 {
        transaction.commit_lsn = Some(decoder.varint()?);
    }
    if flags & END_LSN != 0 {
        transaction.end_lsn = Some(decoder.varint()?);
    }
    if flags & COMMIT_TIME != 0 {
        transaction.commit_time_us = Some(decoder.signed()?);
    }
    if flags & ORIGIN != 0 {
        transaction.origin = Some(decoder.bytes()?);
    }
    if flags & ORIGIN_NUMBERS != 0 {
        transaction.origin_id = decoder.varint_u16()?;
        transaction.origin_lsn = decoder.varint()?;
    }
    if flags & CSN != 0 {
        transaction.csn = Some((decoder.text()?, decoder.varint()?));
        transaction.previous_csn = decoder.varint()?.checked_sub(1);
    }
    if flags & GID != 0 {
        transaction.gid = Some(decoder.bytes()?);
    }
    if flags & CONTEXT != 0 {
        transaction.context = Some(decoder.bytes()?);
    }
    Ok(transaction)
}
