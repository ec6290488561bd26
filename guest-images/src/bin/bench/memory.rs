//! The first touch of memory: an EPT violation, a page from the host, zeroed, mapped.

use crate::measure::{Report, timed};
use guest::ram;

/// Below this the loader has written.
const FIRST: u64 = 4 << 20;

/// Measures the first touch of pages of this size in bytes. The VM must have memory for that, and a host that gives it in such pages.
pub(crate) fn measure(report: &mut Report, page: u64) {
    let name = if page > ram::PAGE_SIZE { "touch-2m" } else { "touch-4k" };
    let pages = ram::regions().flat_map(|region| {
        let first = region.start.max(FIRST).next_multiple_of(page);
        (first..region.start + region.len_bytes)
            .step_by(page as usize)
            .filter(move |at| at + page <= region.start + region.len_bytes)
    });
    report.row_of_each(name, pages, |address| {
        // SAFETY: it is RAM beyond the kernel and what its loader wrote, and identity mapped.
        unsafe { timed!(["mov dword ptr [r9], 1"]; in("r9") address) }
    });
}
