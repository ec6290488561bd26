//! `need`: what fits is granted, the rest refused.

use super::super::row::Row;

/// Everybody keeps what it holds.
pub(super) fn keeps(row: &Row) -> u64 {
    row.claim() - row.overhead
}
